/* everpost.h: the C interface of Everpost: HL7 v2 and DICOM delivery with failover, inside a program of your own.
 *
 * Made by cbindgen from ffi/src; do not edit.
 *
 * Rules: what stands here never changes its meaning, and no number is reused. Functions return EVERPOST_OK or another everpost_code; where one takes an
 * everpost_error **, that may be NULL, else it gets an error object (free it with everpost_error_free) or NULL. Strings are UTF-8 and end with a zero
 * byte; lengths are in bytes, times in milliseconds. Handles are opaque numbers: one that was closed or freed, or is of another kind, gives
 * EVERPOST_HANDLE. Every function may be called from any thread, on one handle also from several at once, unless it says otherwise. Nothing is written
 * to stdout or stderr, no signal handler is installed, nothing is thrown. docs/c-api.md tells the whole story. */

#ifndef EVERPOST_H
#define EVERPOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * Version of this interface: raised when something is added; what was there stays as it was.
 */
#define EVERPOST_ABI 1

/**
 * What a function says. Zero is success.
 */
typedef enum everpost_code {
  /**
   * Done.
   */
  EVERPOST_OK = 0,
  /**
   * A pointer is NULL, a string is not UTF-8, a file cannot be read, or a value makes no sense.
   */
  EVERPOST_ARGUMENT = 1,
  /**
   * The configuration is wrong; the text says where.
   */
  EVERPOST_CONFIGURATION = 2,
  /**
   * Another process, or another client of this one, has the data directory.
   */
  EVERPOST_IN_USE = 3,
  /**
   * The disk failed: nothing was taken.
   */
  EVERPOST_STORAGE = 4,
  /**
   * The disk has too little free space: nothing was taken. It goes on by itself when there is more.
   */
  EVERPOST_FULL = 5,
  /**
   * A limit of the library or of the process: nothing was taken.
   */
  EVERPOST_LIMIT = 6,
  /**
   * There is no destination of this name, or it speaks the other protocol.
   */
  EVERPOST_DESTINATION = 7,
  /**
   * The content is no HL7 message or no DICOM object, or cannot be sent.
   */
  EVERPOST_CONTENT = 8,
  /**
   * No endpoint can have the message: it is safe to try elsewhere.
   */
  EVERPOST_NOT_SENT = 9,
  /**
   * An endpoint may have the message: sending it again may make a duplicate.
   */
  EVERPOST_UNANSWERED = 10,
  /**
   * The peer refused it; the answer is there to be read.
   */
  EVERPOST_NEGATIVE = 11,
  /**
   * The time ran out.
   */
  EVERPOST_TIMEOUT = 12,
  /**
   * The client was closed.
   */
  EVERPOST_CLOSED = 13,
  /**
   * The client belongs to the parent of this process.
   */
  EVERPOST_FORKED = 14,
  /**
   * The handle is none of this kind: never given, or freed or closed already.
   */
  EVERPOST_HANDLE = 15,
  /**
   * The program was built for a later version of the interface than this library has.
   */
  EVERPOST_VERSION = 16,
  /**
   * Nothing is known of this id.
   */
  EVERPOST_UNKNOWN = 17,
  /**
   * A fault inside the library; handles may still be closed.
   */
  EVERPOST_INTERNAL = 99,
} everpost_code;

/**
 * How far a message came on its way to an endpoint.
 */
typedef enum everpost_phase {
  /**
   * It came to no attempt.
   */
  EVERPOST_PHASE_NONE = 0,
  /**
   * Looking the name up.
   */
  EVERPOST_PHASE_RESOLVE = 1,
  /**
   * Connecting.
   */
  EVERPOST_PHASE_CONNECT = 2,
  /**
   * The TLS handshake.
   */
  EVERPOST_PHASE_TLS = 3,
  /**
   * The DICOM association.
   */
  EVERPOST_PHASE_ASSOCIATE = 4,
  /**
   * Sending.
   */
  EVERPOST_PHASE_TRANSMIT = 5,
  /**
   * Waiting for the answer: the receiver may have it.
   */
  EVERPOST_PHASE_ANSWER = 6,
} everpost_phase;

/**
 * What an event tells. Zero stands for a NULL event.
 */
typedef enum everpost_event_kind_t {
  /**
   * No event.
   */
  EVERPOST_EVENT_NONE = 0,
  /**
   * A message was delivered.
   */
  EVERPOST_EVENT_DELIVERED = 1,
  /**
   * The same, with something to look at.
   */
  EVERPOST_EVENT_DELIVERED_WITH_WARNING = 2,
  /**
   * It was sent, and the message itself asked for no answer.
   */
  EVERPOST_EVENT_UNCONFIRMED = 3,
  /**
   * It was refused for good; it is kept until a person decides.
   */
  EVERPOST_EVENT_DEAD_LETTER = 4,
  /**
   * It is held until a person decides.
   */
  EVERPOST_EVENT_HELD = 5,
  /**
   * An attempt failed; the message waits, or is tried elsewhere.
   */
  EVERPOST_EVENT_ATTEMPT_FAILED = 6,
  /**
   * Traffic goes to another endpoint, or to none.
   */
  EVERPOST_EVENT_FAILOVER = 7,
  /**
   * What is known of an endpoint's health changed.
   */
  EVERPOST_EVENT_HEALTH = 8,
  /**
   * A condition that people should look at began.
   */
  EVERPOST_EVENT_ALARM = 9,
  /**
   * It ended.
   */
  EVERPOST_EVENT_ALARM_ENDED = 10,
  /**
   * Something that people should look at once.
   */
  EVERPOST_EVENT_INCIDENT = 11,
  /**
   * The spool takes messages again, or takes none for now.
   */
  EVERPOST_EVENT_INTAKE = 12,
  /**
   * Events were lost because nobody read them; the id says how many. Ask for outcomes with everpost_outcome.
   */
  EVERPOST_EVENT_LOST = 13,
  /**
   * Still waiting. Only from everpost_outcome.
   */
  EVERPOST_EVENT_WAITING = 14,
  /**
   * A person ended it. Only from everpost_outcome.
   */
  EVERPOST_EVENT_DISCARDED = 15,
} everpost_event_kind_t;

/**
 * A peer's answer. Does not change; any thread.
 */
typedef struct everpost_answer everpost_answer;

/**
 * An engine: a spool of messages, and what delivers them. Any number of threads at a time.
 */
typedef struct everpost_client everpost_client;

/**
 * Settings of a client, before it is opened. One thread at a time.
 */
typedef struct everpost_config everpost_config;

/**
 * What went wrong. Does not change; any thread.
 */
typedef struct everpost_error everpost_error;

/**
 * Something that happened. Does not change; any thread.
 */
typedef struct everpost_event everpost_event;

/**
 * A DICOM object that is being written. Any thread, one at a time.
 */
typedef struct everpost_object everpost_object;

/**
 * Called with each event, on a thread of the library. The event is freed when it returns.
 */
typedef void (*everpost_on_event)(const struct everpost_event *event, void *user);

/**
 * Called with each line of the log, on a thread of the library. `level`: 1 error, 2 warning, 3 news, 4 detail. The text is gone when it returns.
 */
typedef void (*everpost_on_log)(uint32_t level, const char *text, void *user);

/**
 * What a system calls a descriptor that an event loop can watch.
 */
typedef int everpost_descriptor;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the library, "major.minor.patch". Never NULL; valid for the life of the process. Any thread.
 */
const char *everpost_version(void);

/**
 * The version of this interface that the library has: at least that of any program it can serve. Compare with EVERPOST_ABI. Any thread.
 */
uint32_t everpost_abi(void);

/**
 * Frees a text that the library returned as `char *`. NULL, and what was freed before, is left alone. Any thread.
 */
void everpost_string_free(char *text);

/**
 * Makes an empty configuration. Free it with everpost_config_free; it may be freed once the client is open.
 *
 * Returns EVERPOST_ARGUMENT if `config` is NULL. Any thread.
 *
 * # Safety
 * `config` is NULL or writable.
 */
enum everpost_code everpost_config_new(struct everpost_config **config);

/**
 * Frees a configuration. NULL, and what was freed before, is left alone.
 */
void everpost_config_free(struct everpost_config *config);

/**
 * Reads TOML from a file, in place of what was read or set before: `data_dir`, `[client]`, `[spool]`, `[names]` and `[[destination]]`, as in the
 * gateway's configuration. Relative paths in it start from its folder.
 *
 * Returns EVERPOST_CONFIGURATION, with `file:line:column: what; remedy` for each problem; then nothing has changed.
 *
 * # Safety
 * `path` is NULL or a string that ends with a zero byte; `error` is NULL or writable.
 */
enum everpost_code everpost_config_load_file(struct everpost_config *config, const char *path, struct everpost_error **error);

/**
 * The same from a string. Relative paths in it start from the working directory.
 *
 * # Safety
 * `toml` is NULL or a string that ends with a zero byte; `error` is NULL or writable.
 */
enum everpost_code everpost_config_load_string(struct everpost_config *config, const char *toml, struct everpost_error **error);

/**
 * Says where the spool is: a folder for this program alone, made if new. Replaces `data_dir` of the TOML.
 *
 * # Safety
 * `path` is NULL or a string that ends with a zero byte; `error` is NULL or writable.
 */
enum everpost_code everpost_config_set_data_dir(struct everpost_config *config, const char *path, struct everpost_error **error);

/**
 * Adds a destination. `protocol` is "mllp" or "dicom".
 *
 * Returns EVERPOST_CONFIGURATION if there is one of this name. The rest is checked by everpost_open.
 *
 * # Safety
 * The strings are NULL or end with a zero byte; `error` is NULL or writable.
 */
enum everpost_code everpost_config_add_destination(struct everpost_config *config,
                                                   const char *name,
                                                   const char *protocol,
                                                   struct everpost_error **error);

/**
 * Adds an endpoint behind those that a destination has. `address` is "host:port"; `ae_title` is needed for DICOM and NULL for HL7.
 *
 * Returns EVERPOST_CONFIGURATION if there is no such destination. The rest is checked by everpost_open.
 *
 * # Safety
 * The strings are NULL or end with a zero byte; `error` is NULL or writable.
 */
enum everpost_code everpost_config_add_endpoint(struct everpost_config *config,
                                                const char *destination,
                                                const char *name,
                                                const char *address,
                                                const char *ae_title,
                                                struct everpost_error **error);

/**
 * Sets one key to a TOML value: "\"30s\"" with its quotes, "4", "{ probe = \"tcp\" }". `table` is "" for the top, "client", "spool", "names", the
 * name of a destination, or "DESTINATION/ENDPOINT".
 *
 * # Safety
 * The strings are NULL or end with a zero byte; `error` is NULL or writable.
 */
enum everpost_code everpost_config_set(struct everpost_config *config,
                                       const char *table,
                                       const char *key,
                                       const char *value,
                                       struct everpost_error **error);

/**
 * Has everpost_open fail with EVERPOST_VERSION if the library is older than the header: pass EVERPOST_ABI.
 */
enum everpost_code everpost_config_expect(struct everpost_config *config, uint32_t abi);

/**
 * Has a thread of the library call `callback` with every event, one after the other, from everpost_open until everpost_close returns; everpost_poll
 * then finds none. The callback may call every function on the client except everpost_close. NULL: no callback.
 *
 * # Safety
 * `callback` may be called on another thread, with `user`, until everpost_close has returned.
 */
enum everpost_code everpost_config_on_event(struct everpost_config *config, everpost_on_event callback, void *user);

/**
 * Has a thread of the library call `callback` with every line of the log up to a level: 1 errors, 2 warnings, 3 news, 4 details. The
 * callback may call every function on the client except everpost_close. NULL: no callback.
 *
 * # Safety
 * As everpost_config_on_event.
 */
enum everpost_code everpost_config_on_log(struct everpost_config *config, uint32_t level, everpost_on_log callback, void *user);

/**
 * Opens the spool in the configuration's `data_dir`, and delivers from now on what waits in it. The folder is locked until everpost_close. Close the
 * client with everpost_close; the configuration is not needed any more.
 *
 * Returns EVERPOST_CONFIGURATION, EVERPOST_IN_USE, EVERPOST_STORAGE, EVERPOST_LIMIT, EVERPOST_VERSION; `*client` is NULL then. Blocks on the disk.
 * Any thread.
 *
 * # Safety
 * `client` and `error` are NULL or writable.
 */
enum everpost_code everpost_open(const struct everpost_config *config, struct everpost_client **client, struct everpost_error **error);

/**
 * Closes a client: takes nothing more, lets what is on its way arrive while there is time and an endpoint in service, gives the folder back. `left`, if
 * not NULL, says how many messages wait for the next start. Objects that are being written are dropped. NULL is left alone.
 *
 * The handle is gone afterwards, whatever is returned; calls on other threads end with EVERPOST_CLOSED, and a second close with EVERPOST_HANDLE.
 * Returns EVERPOST_STORAGE if the disk did not take the last bookkeeping, which costs at most repeated work; EVERPOST_ARGUMENT in a callback, where
 * nothing happens. Blocks at most `timeout_ms` and some seconds for a disk that hangs. Any thread but those that call back.
 *
 * # Safety
 * `left` is NULL or writable.
 */
enum everpost_code everpost_close(struct everpost_client *client,
                                  uint32_t timeout_ms,
                                  uint64_t *left);

/**
 * Takes an HL7 message into the spool. It is durable when EVERPOST_OK is returned, and `*id` is that of its events. Segments end with CR; bytes go out
 * as they are. Delivery goes on in the background, in order, through restarts of the process.
 *
 * Returns EVERPOST_DESTINATION, EVERPOST_CONTENT, EVERPOST_FULL, EVERPOST_STORAGE, EVERPOST_LIMIT: nothing was taken. Blocks for one sync of the
 * disk, never for the network. `id` may be NULL. The message is copied. Any thread.
 *
 * # Safety
 * `destination` is NULL or ends with a zero byte; `message` points to `len` bytes; `id` and `error` are NULL or writable.
 */
enum everpost_code everpost_submit_hl7(struct everpost_client *client,
                                       const char *destination,
                                       const void *message,
                                       size_t len,
                                       uint64_t *id,
                                       struct everpost_error **error);

/**
 * Takes a DICOM file (PS3.10) into the spool. As everpost_submit_hl7; EVERPOST_ARGUMENT for a file that cannot be read. The file is copied.
 *
 * # Safety
 * The strings are NULL or end with a zero byte; `id` and `error` are NULL or writable.
 */
enum everpost_code everpost_submit_dicom_file(struct everpost_client *client,
                                              const char *destination,
                                              const char *path,
                                              uint64_t *id,
                                              struct everpost_error **error);

/**
 * Takes a DICOM file that is in memory into the spool. As everpost_submit_hl7.
 *
 * # Safety
 * As everpost_submit_hl7.
 */
enum everpost_code everpost_submit_dicom(struct everpost_client *client,
                                         const char *destination,
                                         const void *part10,
                                         size_t len,
                                         uint64_t *id,
                                         struct everpost_error **error);

/**
 * Starts a DICOM object whose data set is written piece by piece, in the given transfer syntax and without File Meta Information. End it with
 * everpost_object_finish or everpost_object_abort, which free it. Whatever its size, one chunk of 256 KiB is in memory.
 *
 * Returns EVERPOST_CONTENT for a UID that is none, EVERPOST_DESTINATION, EVERPOST_FULL, EVERPOST_LIMIT (too many objects at a time). Any thread.
 *
 * # Safety
 * The strings are NULL or end with a zero byte; `object` and `error` are NULL or writable.
 */
enum everpost_code everpost_object_begin(struct everpost_client *client,
                                         const char *destination,
                                         const char *sop_class,
                                         const char *sop_instance,
                                         const char *transfer_syntax,
                                         struct everpost_object **object,
                                         struct everpost_error **error);

/**
 * Appends bytes of the data set. Blocks on the disk at most for the writing of a chunk.
 *
 * Returns EVERPOST_FULL or EVERPOST_STORAGE: the object is lost, and must still be ended. EVERPOST_CLOSED after everpost_close.
 *
 * # Safety
 * `data` points to `len` bytes; `error` is NULL or writable.
 */
enum everpost_code everpost_object_write(struct everpost_object *object, const void *data, size_t len, struct everpost_error **error);

/**
 * The object is whole: it is durable when EVERPOST_OK is returned, and `*id` is that of its events. The handle is gone afterwards, whatever is
 * returned.
 *
 * Returns EVERPOST_CONTENT if nothing was written; EVERPOST_FULL, EVERPOST_STORAGE, EVERPOST_CLOSED: nothing was taken. Blocks for a sync.
 *
 * # Safety
 * `id` and `error` are NULL or writable.
 */
enum everpost_code everpost_object_finish(struct everpost_object *object, uint64_t *id, struct everpost_error **error);

/**
 * Gives an object up. The handle is gone afterwards. NULL is left alone.
 *
 * Returns EVERPOST_HANDLE if it was ended before. Any thread.
 */
enum everpost_code everpost_object_abort(struct everpost_object *object);

/**
 * Sends an HL7 message and waits for the answer of the first endpoint that takes it, failing over meanwhile. Nothing is kept.
 *
 * Returns EVERPOST_OK with `*answer`; EVERPOST_NEGATIVE with `*answer`; EVERPOST_NOT_SENT: no endpoint can have it, it is safe to try elsewhere;
 * EVERPOST_UNANSWERED: one may have it; EVERPOST_DESTINATION; EVERPOST_CONTENT. Free the answer with everpost_answer_free. Blocks at most
 * `timeout_ms`. Any thread.
 *
 * # Safety
 * `destination` is NULL or ends with a zero byte; `message` points to `len` bytes; `answer` and `error` are NULL or writable.
 */
enum everpost_code everpost_send_hl7(struct everpost_client *client,
                                     const char *destination,
                                     const void *message,
                                     size_t len,
                                     uint32_t timeout_ms,
                                     struct everpost_answer **answer,
                                     struct everpost_error **error);

/**
 * Sends a DICOM file and waits for the status. As everpost_send_hl7; EVERPOST_ARGUMENT for a file that cannot be read.
 *
 * # Safety
 * The strings are NULL or end with a zero byte; `answer` and `error` are NULL or writable.
 */
enum everpost_code everpost_send_dicom_file(struct everpost_client *client,
                                            const char *destination,
                                            const char *path,
                                            uint32_t timeout_ms,
                                            struct everpost_answer **answer,
                                            struct everpost_error **error);

/**
 * Sends a DICOM file that is in memory. As everpost_send_hl7.
 *
 * # Safety
 * As everpost_send_hl7.
 */
enum everpost_code everpost_send_dicom(struct everpost_client *client,
                                       const char *destination,
                                       const void *part10,
                                       size_t len,
                                       uint32_t timeout_ms,
                                       struct everpost_answer **answer,
                                       struct everpost_error **error);

/**
 * Asks the endpoints of a destination, one after the other, whether one is there: C-ECHO for DICOM, the configured probe for HL7.
 *
 * Returns EVERPOST_NOT_SENT, with what the last one met; EVERPOST_DESTINATION. Blocks at most `timeout_ms`. Any thread.
 *
 * # Safety
 * `destination` is NULL or ends with a zero byte; `error` is NULL or writable.
 */
enum everpost_code everpost_echo(struct everpost_client *client, const char *destination, uint32_t timeout_ms, struct everpost_error **error);

/**
 * The oldest event, waiting for one at most `timeout_ms` (0: not at all). `*event` is NULL if none came. Free it with everpost_event_free.
 *
 * Returns EVERPOST_OK in both cases. Any thread; each event goes to one.
 *
 * # Safety
 * `event` is NULL or writable.
 */
enum everpost_code everpost_poll(struct everpost_client *client, uint32_t timeout_ms, struct everpost_event **event);

/**
 * A descriptor that select, poll, epoll, Qt or GLib can watch for reading: it is readable while there is an event to poll. It belongs to the client:
 * neither read nor close it, and stop watching it before everpost_close. -1 if there is none. Any thread.
 */
everpost_descriptor everpost_event_fd(struct everpost_client *client);

/**
 * What became of a message, as an event, also after its event was read or lost: as long as the spool's history reaches. Free it with
 * everpost_event_free.
 *
 * Returns EVERPOST_UNKNOWN for an id of which nothing is known. Blocks on the disk. Any thread.
 *
 * # Safety
 * `event` and `error` are NULL or writable.
 */
enum everpost_code everpost_outcome(struct everpost_client *client, uint64_t id, struct everpost_event **event, struct everpost_error **error);

/**
 * Waits until every message submitted before has come to an outcome. `left`, if not NULL, says how many have not.
 *
 * Returns EVERPOST_TIMEOUT if there are any; they are delivered when an endpoint takes them. Blocks at most `timeout_ms`. Any thread.
 *
 * # Safety
 * `left` and `error` are NULL or writable.
 */
enum everpost_code everpost_flush(struct everpost_client *client, uint32_t timeout_ms, uint64_t *left, struct everpost_error **error);

/**
 * How it stands, as JSON: version, spool_bytes, spool_free_bytes, intake ("open", "reserve", "broken"), destinations with their counts and endpoints, as
 * in `everpost status --json`. Free it with everpost_string_free. Any thread.
 *
 * # Safety
 * `json` is NULL or writable.
 */
enum everpost_code everpost_status_json(struct everpost_client *client,
                                        char **json);

/**
 * The code. EVERPOST_OK for NULL.
 */
enum everpost_code everpost_error_code(const struct everpost_error *error);

/**
 * The code's name, "EVERPOST_NOT_SENT". Never NULL; valid for the life of the process.
 */
const char *everpost_error_name(const struct everpost_error *error);

/**
 * What happened and what to do, for people; no patient data. Never NULL; valid until the error is freed.
 */
const char *everpost_error_text(const struct everpost_error *error);

/**
 * How far the message came.
 */
enum everpost_phase everpost_error_phase(const struct everpost_error *error);

/**
 * The name of the endpoint that was tried last; empty: none. Never NULL; valid until the error is freed.
 */
const char *everpost_error_endpoint(const struct everpost_error *error);

/**
 * Whether the same call may succeed later, with nothing changed and without the risk of a duplicate.
 */
bool everpost_error_is_retriable(const struct everpost_error *error);

/**
 * Frees an error. NULL, and what was freed before, is left alone.
 */
void everpost_error_free(struct everpost_error *error);

/**
 * The answer's bytes: HL7: the message that came back; DICOM: none. A zero byte stands behind them. `len` may be NULL. NULL for no answer; valid until
 * the answer is freed.
 *
 * # Safety
 * `len` is NULL or writable.
 */
const void *everpost_answer_bytes(const struct everpost_answer *answer,
                                  size_t *len);

/**
 * DICOM: the status (0000,0900). HL7: 0 for AA and CA, else the two letters of MSA-1 as a number: "AE" is 0x4145.
 */
uint32_t everpost_answer_status(const struct everpost_answer *answer);

/**
 * The name of the endpoint that answered. Never NULL; valid until the answer is freed.
 */
const char *everpost_answer_endpoint(const struct everpost_answer *answer);

/**
 * Frees an answer. NULL, and what was freed before, is left alone.
 */
void everpost_answer_free(struct everpost_answer *answer);

/**
 * What the event tells. EVERPOST_EVENT_NONE for NULL.
 */
enum everpost_event_kind_t everpost_event_kind(const struct everpost_event *event);

/**
 * The id of the message, as submit gave it; 0: none. EVERPOST_EVENT_LOST: how many events were lost.
 */
uint64_t everpost_event_id(const struct everpost_event *event);

/**
 * The name of the destination; empty: none. Never NULL; valid until the event is freed.
 */
const char *everpost_event_destination(const struct everpost_event *event);

/**
 * The name of the endpoint; empty: none. Never NULL; valid until the event is freed.
 */
const char *everpost_event_endpoint(const struct everpost_event *event);

/**
 * What happened, for people; no patient data. Never NULL; valid until the event is freed.
 */
const char *everpost_event_text(const struct everpost_event *event);

/**
 * Frees an event. NULL, and what was freed before, is left alone.
 */
void everpost_event_free(struct everpost_event *event);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* EVERPOST_H */

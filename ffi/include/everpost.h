/* everpost.h: the C ABI of Everpost, store-and-forward for HL7 v2 and DICOM inside a workstation's own process.
 *
 * Rules: what stands here never changes meaning and no number is reused; handles are opaque; every function may be called from any thread, on one
 * handle also from several at once, except everpost_close, which must be the last use of its handle. No function throws or unwinds into the caller.
 * Strings are UTF-8 and end with a zero byte. */
#ifndef EVERPOST_H
#define EVERPOST_H

#ifdef __cplusplus
extern "C" {
#endif

/* What a function says. Zero is success. */
typedef enum everpost_code {
    EVERPOST_OK = 0,
    EVERPOST_ARGUMENT = 1,      /* a pointer is NULL or a string is not UTF-8 */
    EVERPOST_CONFIGURATION = 2, /* the configuration is wrong; everpost_last_error says where */
    EVERPOST_IN_USE = 3,        /* another process has the data directory */
    EVERPOST_STORAGE = 4,       /* the disk failed; nothing that was stored before is lost */
    EVERPOST_INTERNAL = 99      /* a fault in the library; the handle may still be closed */
} everpost_code;

/* One spool, opened. */
typedef struct everpost_client everpost_client;

/* The version of the library, "major.minor.patch". Never NULL; valid for the life of the process. */
const char *everpost_version(void);

/* Opens the store in a directory, made if new. `settings` is TOML with [[destination]] and, if the defaults do not fit, [spool], as in
 * deploy/everpost.example.toml. On success *client is the handle; else it is NULL. The directory is locked until everpost_close. */
everpost_code everpost_open(const char *data_dir, const char *settings, everpost_client **client);

/* Writes what waits and gives the directory back. NULL is allowed and does nothing. The handle is gone afterwards, whatever is returned;
 * with another code than EVERPOST_OK the disk did not take the last bookkeeping, which costs at most repeated work. */
everpost_code everpost_close(everpost_client *client);

/* What the last failed call of this thread met, for people: never NULL, empty if none failed. Valid until the next call of this thread. */
const char *everpost_last_error(void);

#ifdef __cplusplus
}
#endif

#endif

/* 32 threads with 64 KiB of stack call everything on one client at once, and go on while it is closed.
 *
 *   threads FOLDER HL7-HOST:PORT DICOM-HOST:PORT ROUNDS */
#include <everpost.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 32
static everpost_client *client;
static int rounds;
static atomic_bool closing;
static atomic_ulong submitted, outcomes, logged;

/* Calls, then looks: in one expression the error might be read before it is written. */
#define MUST(what, call) do { code = (call); must(what, code, error); error = NULL; } while (0)

/* What a call may say: OK, or, once the client is being closed, that it is. */
static void must(const char *what, everpost_code code, everpost_error *error) {
    const int end = code == EVERPOST_CLOSED || code == EVERPOST_HANDLE || code == EVERPOST_NOT_SENT || code == EVERPOST_UNANSWERED;
    if (code != EVERPOST_OK && !(end && atomic_load(&closing))) {
        fprintf(stderr, "%s: %d %s\n", what, (int)code, everpost_error_text(error));
        exit(1);
    }
    everpost_error_free(error);
}

/* A small DICOM file: preamble, File Meta Information, one element. */
static size_t image(unsigned char *at, int thread, int round) {
    static const unsigned char fixed[] = {0x02, 0, 0, 0, 'U', 'L', 4, 0};
    unsigned char *p = at, *length;
    char instance[64];
    const char *values[] = {"1.2.840.10008.5.1.4.1.1.7", instance, "1.2.840.10008.1.2.1"};
    snprintf(instance, sizeof instance, "2.25.4711.%d.%d", thread + 1, round + 1);
    memset(p, 0, 128);
    memcpy(p + 128, "DICM", 4);
    memcpy(p + 132, fixed, sizeof fixed);
    length = p + 140;
    p += 144;
    for (int i = 0; i < 3; i++) {
        const size_t size = strlen(values[i]), padded = (size + 1) / 2 * 2;
        p[0] = 2, p[1] = 0, p[2] = (unsigned char)(i == 2 ? 0x10 : i + 2), p[3] = 0, p[4] = 'U', p[5] = 'I';
        p[6] = (unsigned char)padded, p[7] = 0;
        memset(p + 8, 0, padded);
        memcpy(p + 8, values[i], size);
        p += 8 + padded;
    }
    const size_t meta = (size_t)(p - length) - 4;
    length[0] = (unsigned char)meta, length[1] = 0, length[2] = 0, length[3] = 0;
    memcpy(p, "\x10\x00\x20\x00LO\x04\x00TEST", 12);
    return (size_t)(p - at) + 12;
}

static void event(everpost_event *event) {
    if (event == NULL) return;
    if (strlen(everpost_event_text(event)) > 100000 || strlen(everpost_event_destination(event)) > 100) exit(1);
    if (everpost_event_kind(event) == EVERPOST_EVENT_DELIVERED && everpost_event_id(event) != 0) atomic_fetch_add(&outcomes, 1);
    everpost_event_free(event);
}

static void one(int thread, int round) {
    char message[128];
    unsigned char bytes[512];
    uint64_t id = 0, left = 0;
    everpost_error *error = NULL;
    everpost_answer *answer = NULL;
    everpost_event *found = NULL;
    everpost_object *object = NULL;
    everpost_config *config = NULL;
    char *json = NULL;
    size_t length = 0;
    const int size = snprintf(message, sizeof message, "MSH|^~\\&|T|A|R|B|20260101||ADT^A08|T%d-%d|P|2.5\r", thread, round);
    everpost_code code = everpost_submit_hl7(client, "ris", message, (size_t)size, &id, &error);
    must("submit", code, error);
    error = NULL;
    if (code == EVERPOST_OK) atomic_fetch_add(&submitted, 1);
    switch ((thread + round) % 10) {
    case 0:
        MUST("send", everpost_send_hl7(client, "ris", message, (size_t)size, 60000, &answer, &error));
        if (answer != NULL && (everpost_answer_bytes(answer, &length) == NULL || length == 0 || everpost_answer_status(answer) != 0)) exit(1);
        break;
    case 1:
        MUST("poll", everpost_poll(client, 1, &found));
        event(found);
        break;
    case 2: MUST("status", everpost_status_json(client, &json)); break;
    case 3:
        code = everpost_outcome(client, id, &found, &error);
        if (id != 0) must("outcome", code, error);
        else everpost_error_free(error);
        everpost_event_free(found);
        break;
    case 4: /* an object, written piece by piece */
        length = image(bytes, thread, round);
        code = everpost_object_begin(client, "pacs", "1.2.840.10008.5.1.4.1.1.7", "2.25.1", "1.2.840.10008.1.2.1", &object, &error);
        must("begin", code, error);
        error = NULL;
        if (code != EVERPOST_OK) break;
        MUST("write", everpost_object_write(object, bytes + length - 12, 12, &error));
        if (round % 2) MUST("abort", everpost_object_abort(object));
        else MUST("finish", everpost_object_finish(object, &id, &error));
        break;
    case 5:
        length = image(bytes, thread, round);
        MUST("submit_dicom", everpost_submit_dicom(client, "pacs", bytes, length, &id, &error));
        break;
    case 6:
        length = image(bytes, thread, round);
        MUST("send_dicom", everpost_send_dicom(client, "pacs", bytes, length, 60000, &answer, &error));
        break;
    case 7: MUST("echo", everpost_echo(client, round % 2 ? "ris" : "pacs", 60000, &error)); break;
    case 8:
        code = everpost_flush(client, 1, &left, &error);
        if (code != EVERPOST_TIMEOUT) must("flush", code, error);
        else everpost_error_free(error);
        if (everpost_event_fd(client) < 0 && !atomic_load(&closing)) exit(1);
        break;
    default: /* a configuration of its own, and a wrong call */
        MUST("config", everpost_config_new(&config));
        if (everpost_config_load_string(config, "[[destination]]\nname = 1\n", &error) != EVERPOST_CONFIGURATION) exit(1);
        if (strlen(everpost_error_text(error)) == 0 || everpost_error_is_retriable(error)) exit(1);
        everpost_error_free(error);
        error = NULL;
        MUST("set", everpost_config_set(config, "client", "threads", "2", &error));
        everpost_config_free(config);
        break;
    }
    everpost_answer_free(answer);
    everpost_string_free(json);
}

static void *work(void *argument) {
    const int number = *(const int *)argument;
    for (int i = 0; i < rounds; i++) one(number, i);
    /* Until the client is gone under us. */
    for (int i = rounds;; i++) {
        everpost_event *found = NULL;
        const everpost_code code = everpost_poll(client, 10, &found);
        event(found);
        if (code != EVERPOST_OK) return code == EVERPOST_CLOSED || code == EVERPOST_HANDLE ? NULL : argument;
        if (atomic_load(&closing)) one(number, i);
    }
}

static void on_log(uint32_t level, const char *text, void *user) {
    if (level == 0 || level > 4 || text == NULL || user != &logged) exit(1);
    atomic_fetch_add(&logged, 1);
}

int main(int argc, char **argv) {
    everpost_config *config = NULL;
    everpost_error *error = NULL;
    pthread_t threads[THREADS];
    int numbers[THREADS], failed = 0;
    pthread_attr_t small;
    uint64_t left = 1;
    if (argc < 5) return 2;
    rounds = atoi(argv[4]);
    everpost_config_new(&config);
    if (everpost_config_set_data_dir(config, argv[1], &error) || everpost_config_set(config, "spool", "reserve", "\"1 MiB\"", &error) ||
        everpost_config_add_destination(config, "ris", "mllp", &error) || everpost_config_add_endpoint(config, "ris", "a", argv[2], NULL, &error) ||
        everpost_config_set(config, "ris", "ack_timeout", "\"60s\"", &error) || everpost_config_set(config, "ris", "connect_timeout", "\"60s\"", &error) ||
        everpost_config_set(config, "ris/a", "health", "{ probe = \"tcp\", timeout = \"60s\", interval = \"60s\" }", &error) ||
        everpost_config_add_destination(config, "pacs", "dicom", &error) || everpost_config_add_endpoint(config, "pacs", "a", argv[3], "SCP", &error) ||
        everpost_config_set(config, "pacs/a", "health", "{ probe = \"dicom-echo\", timeout = \"60s\", interval = \"60s\" }", &error) ||
        everpost_config_on_log(config, 4, on_log, &logged) || everpost_open(config, &client, &error)) {
        fprintf(stderr, "%s\n", everpost_error_text(error));
        return 1;
    }
    everpost_config_free(config);
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, PTHREAD_STACK_MIN > 65536 ? PTHREAD_STACK_MIN : 65536);
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        if (pthread_create(&threads[i], &small, work, &numbers[i]) != 0) return 1;
    }
    pthread_attr_destroy(&small);
    /* All have done their rounds when everything that they submitted has come to an outcome. */
    while (atomic_load(&submitted) < (unsigned long)(THREADS * rounds)) {
        if (everpost_flush(client, 100, &left, NULL) == EVERPOST_HANDLE) return 1;
    }
    if (everpost_flush(client, 300000, &left, &error) != EVERPOST_OK) return 1;
    atomic_store(&closing, true);
    if (everpost_close(client, 1000, &left) != EVERPOST_OK) return 1;
    for (int i = 0; i < THREADS; i++) {
        void *bad = NULL;
        pthread_join(threads[i], &bad);
        failed += bad != NULL;
    }
    if (failed || everpost_close(client, 0, NULL) != EVERPOST_HANDLE) return 1;
    printf("done: %lu submitted, %lu outcomes seen, %lu lines\n", atomic_load(&submitted), atomic_load(&outcomes), atomic_load(&logged));
    return 0;
}

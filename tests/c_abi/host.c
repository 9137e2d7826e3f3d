/* A program that does what it is told: a command per line, an answer per line: "CODE MILLISECONDS ...".   host CONFIGURATION.toml
 * Every answer is followed by the error's text, if there was an error. It ends with its input. */
#include <everpost.h>
#include <inttypes.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static everpost_client *client;
static everpost_error *error;
static struct timespec begun;

static void say(everpost_code code, const char *format, ...) {
    struct timespec now;
    va_list more;
    clock_gettime(CLOCK_MONOTONIC, &now);
    printf("%d %ld ", (int)code, (long)((now.tv_sec - begun.tv_sec) * 1000 + (now.tv_nsec - begun.tv_nsec) / 1000000));
    va_start(more, format);
    vprintf(format, more);
    va_end(more);
    for (const char *c = everpost_error_text(error); *c; c++) putchar(*c == '\n' ? ' ' : *c);
    putchar('\n');
    fflush(stdout);
    everpost_error_free(error);
    error = NULL;
}

/* Reads a file into memory. */
static char *slurp(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    char *bytes;
    if (!file) exit(3);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    bytes = malloc(*size + 1);
    if (!bytes || fread(bytes, 1, *size, file) != *size) exit(3);
    fclose(file);
    return bytes;
}

static void answered(everpost_code code, everpost_answer *answer) {
    say(code, "%s %u %s ", everpost_answer_endpoint(answer), (unsigned)everpost_answer_status(answer),
        answer ? (strstr((const char *)everpost_answer_bytes(answer, NULL), "MSA|AA|") ? "AA" : "-") : "-");
    everpost_answer_free(answer);
}

int main(int argc, char **argv) {
    static char line[4096];
    everpost_config *config = NULL;
    everpost_code code;
    if (argc < 2) return 2;
    setlocale(LC_ALL, "");
    everpost_config_new(&config);
    clock_gettime(CLOCK_MONOTONIC, &begun);
    code = everpost_config_load_file(config, argv[1], &error);
    if (code == EVERPOST_OK) code = everpost_open(config, &client, &error);
    everpost_config_free(config);
    say(code, "open ");
    while (fgets(line, sizeof line, stdin)) {
        char verb[32] = "", to[32] = "", what[2048] = "", message[4096];
        unsigned within = 0;
        uint64_t id = 0, left = 0;
        size_t size = 0;
        everpost_answer *answer = NULL;
        everpost_event *event = NULL;
        everpost_object *object = NULL;
        char *text = NULL;
        sscanf(line, "%31s %31s %2047s %u", verb, to, what, &within);
        const int length = snprintf(message, sizeof message, "MSH|^~\\&|HOST|A|RIS|B|20260101||ORU^R01|%s|P|2.5\r", what);
        clock_gettime(CLOCK_MONOTONIC, &begun);
        if (!strcmp(verb, "submit")) {
            code = everpost_submit_hl7(client, to, message, (size_t)length, &id, &error);
            say(code, "%" PRIu64 " ", id);
        } else if (!strcmp(verb, "send")) {
            code = everpost_send_hl7(client, to, message, (size_t)length, within, &answer, &error);
            answered(code, answer);
        } else if (!strcmp(verb, "submit_file")) {
            code = everpost_submit_dicom_file(client, to, what, &id, &error);
            say(code, "%" PRIu64 " ", id);
        } else if (!strcmp(verb, "submit_memory")) {
            text = slurp(what, &size);
            code = everpost_submit_dicom(client, to, text, size, &id, &error);
            free(text);
            say(code, "%" PRIu64 " ", id);
        } else if (!strcmp(verb, "send_file")) {
            code = everpost_send_dicom_file(client, to, what, within, &answer, &error);
            answered(code, answer);
        } else if (!strcmp(verb, "send_memory")) {
            text = slurp(what, &size);
            code = everpost_send_dicom(client, to, text, size, within, &answer, &error);
            free(text);
            answered(code, answer);
        } else if (!strcmp(verb, "stream")) { /* stream TO INSTANCE MEGABYTES */
            static unsigned char piece[1 << 20];
            code = everpost_object_begin(client, to, "1.2.840.10008.5.1.4.1.1.7", what, "1.2.840.10008.1.2", &object, &error);
            for (unsigned n = 0; code == EVERPOST_OK && n < within; n++) code = everpost_object_write(object, piece, sizeof piece, &error);
            if (code == EVERPOST_OK) code = everpost_object_finish(object, &id, &error);
            else everpost_object_abort(object);
            say(code, "%" PRIu64 " ", id);
        } else if (!strcmp(verb, "echo")) {
            code = everpost_echo(client, to, (uint32_t)strtoul(what, NULL, 10), &error);
            say(code, "");
        } else if (!strcmp(verb, "outcome")) {
            code = everpost_outcome(client, strtoull(to, NULL, 10), &event, &error);
            say(code, "%d %s ", (int)everpost_event_kind(event), everpost_event_endpoint(event));
            everpost_event_free(event);
        } else if (!strcmp(verb, "flush")) {
            code = everpost_flush(client, (uint32_t)strtoul(to, NULL, 10), &left, &error);
            say(code, "%" PRIu64 " ", left);
        } else if (!strcmp(verb, "status")) {
            code = everpost_status_json(client, &text);
            say(code, "%s ", text ? text : "");
            everpost_string_free(text);
        } else if (!strcmp(verb, "close")) {
            code = everpost_close(client, (uint32_t)strtoul(to, NULL, 10), &left);
            say(code, "%" PRIu64 " ", left);
        } else {
            return 2;
        }
    }
    everpost_close(client, 0, NULL);
    return 0;
}

/* A console that submits a series and shows what becomes of it: DICOM files given by name, or synthetic images written piece by piece.
 *
 *   cc console.c -o console $(pkg-config --cflags --libs everpost)
 *   ./console SPOOL-FOLDER HOST:PORT AE-TITLE SECONDS FILE...      (or a number of synthetic images in place of files)
 *
 * What was not delivered when the time is over stays in the folder, and is delivered at the next start. Exit status: 0 all delivered, 1 some wait or were
 * refused, 2 wrong arguments. */
#include <everpost.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char *doing, everpost_error *error) {
    fprintf(stderr, "%s: %s: %s\n", doing, everpost_error_name(error), everpost_error_text(error));
    everpost_error_free(error);
    return 2;
}

/* One element in explicit VR little endian with a short text. */
static size_t put(unsigned char *at, unsigned group, unsigned element, const char *vr, const char *value) {
    const size_t length = strlen(value), padded = (length + 1) / 2 * 2;
    at[0] = group & 0xff, at[1] = group >> 8, at[2] = element & 0xff, at[3] = element >> 8;
    memcpy(at + 4, vr, 2);
    at[6] = padded & 0xff, at[7] = padded >> 8;
    memset(at + 8, strcmp(vr, "UI") == 0 ? 0 : ' ', padded);
    memcpy(at + 8, value, length);
    return 8 + padded;
}

/* A secondary capture object with some pixels, the pixels in pieces as a detector brings them. */
static everpost_code image(everpost_client *client, const char *to, unsigned number, uint64_t *id, everpost_error **error) {
    static const char *const sop_class = "1.2.840.10008.5.1.4.1.1.7";
    unsigned char head[512], row[1024];
    char instance[64];
    size_t size = 0;
    everpost_object *object = NULL;
    everpost_code code;
    snprintf(instance, sizeof instance, "2.25.4711.%u", number + 1);
    code = everpost_object_begin(client, to, sop_class, instance, "1.2.840.10008.1.2.1", &object, error);
    if (code != EVERPOST_OK) {
        return code;
    }
    size += put(head + size, 0x0008, 0x0016, "UI", sop_class);
    size += put(head + size, 0x0008, 0x0018, "UI", instance);
    size += put(head + size, 0x0008, 0x0060, "CS", "OT");
    size += put(head + size, 0x0010, 0x0020, "LO", "TEST");
    size += put(head + size, 0x0020, 0x000D, "UI", "2.25.4711");
    size += put(head + size, 0x0020, 0x000E, "UI", "2.25.4711.0");
    memcpy(head + size, "\xe0\x7f\x10\x00OB\0\0\x00\x00\x04\x00", 12); /* pixel data, 262144 bytes */
    code = everpost_object_write(object, head, size + 12, error);
    memset(row, (int)number, sizeof row);
    for (int i = 0; code == EVERPOST_OK && i < 256; i++) {
        code = everpost_object_write(object, row, sizeof row, error);
    }
    if (code != EVERPOST_OK) {
        everpost_object_abort(object);
        return code;
    }
    return everpost_object_finish(object, id, error);
}

int main(int argc, char **argv) {
    everpost_config *config = NULL;
    everpost_client *client = NULL;
    everpost_error *error = NULL;
    uint64_t left = 0;
    unsigned submitted = 0, delivered = 0, synthetic;
    char *end = NULL;

    if (argc < 6) {
        fprintf(stderr, "usage: %s SPOOL-FOLDER HOST:PORT AE-TITLE SECONDS FILE...|NUMBER\n", argv[0]);
        return 2;
    }
    synthetic = (unsigned)strtoul(argv[5], &end, 10);
    if (*end != '\0') {
        synthetic = 0;
    }
    everpost_config_new(&config);
    if (everpost_config_set_data_dir(config, argv[1], &error) != EVERPOST_OK ||
        everpost_config_add_destination(config, "pacs", "dicom", &error) != EVERPOST_OK ||
        everpost_config_add_endpoint(config, "pacs", "primary", argv[2], argv[3], &error) != EVERPOST_OK ||
        everpost_open(config, &client, &error) != EVERPOST_OK) {
        everpost_config_free(config);
        return fail("open", error);
    }
    everpost_config_free(config);
    for (unsigned i = 0; i < (synthetic ? synthetic : (unsigned)argc - 5); i++) {
        uint64_t id = 0;
        const everpost_code code =
            synthetic ? image(client, "pacs", i, &id, &error) : everpost_submit_dicom_file(client, "pacs", argv[5 + i], &id, &error);
        if (code != EVERPOST_OK) {
            fail("submit", error);
            error = NULL;
            continue;
        }
        printf("%" PRIu64 " is safe on disk\n", id);
        submitted++;
    }
    for (unsigned seconds = 0; delivered < submitted && seconds < (unsigned)atoi(argv[4]);) {
        everpost_event *event = NULL;
        if (everpost_poll(client, 1000, &event) != EVERPOST_OK) {
            break;
        }
        if (event == NULL) {
            seconds++;
            continue;
        }
        printf("%" PRIu64 " %s %s\n", everpost_event_id(event), everpost_event_endpoint(event), everpost_event_text(event));
        switch (everpost_event_kind(event)) {
        case EVERPOST_EVENT_DELIVERED:
        case EVERPOST_EVENT_DELIVERED_WITH_WARNING:
            delivered++;
            break;
        default:
            break;
        }
        everpost_event_free(event);
    }
    everpost_close(client, 1000, &left);
    printf("%u submitted, %u delivered, %" PRIu64 " wait for the next start\n", submitted, delivered, left);
    return delivered == submitted ? 0 : 1;
}

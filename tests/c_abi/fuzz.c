/* Random calls, bounded in number and chosen by a seed: wrong handles, NULLs, wrong order, double ends, lengths that cannot be, bytes that are no UTF-8.
 * Whatever is called, the process lives.   fuzz FOLDER HOST:PORT SEED CALLS */
#include <everpost.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS 8
/* Lengths that nothing has: negative numbers, and what is left of them in other types. */
static const size_t huge[] = {(size_t)-1, (size_t)-4, (size_t)-1 / 2, (size_t)-1 / 2 - 7, (size_t)1 << 62, (size_t)1 << 47, (size_t)1 << 40, (size_t)1 << 36};
#define HUGE_LENGTHS (sizeof huge / sizeof huge[0])
static unsigned long long state;
static unsigned next(unsigned below) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (unsigned)(state >> 33) % below;
}
static everpost_config *configs[SLOTS];
static everpost_client *clients[SLOTS];
static everpost_object *objects[SLOTS];
static everpost_answer *answers[SLOTS];
static everpost_error *errors[SLOTS];
static everpost_event *events[SLOTS];
/* Handles are not taken out of their slots when they end: later calls find them dead, or of the wrong kind. */
static void *any(void *const *slots) {
    switch (next(10)) {
    case 0: return NULL;
    case 1: return (void *)0x1001;
    case 2: return &state;
    case 3: return events[next(SLOTS)];
    default: return slots[next(SLOTS)];
    }
}
#define ANY(slots) any((void *const *)(slots))

int main(int argc, char **argv) {
    static char toml[512];
    static const char *const texts[] = {"ris", "pacs", "", "nobody", "\xff\xfe", "1.2.840.10008.5.1.4.1.1.7", "1.2.3", "/nowhere/x", "{", "1"};
    static const char message[] = "MSH|^~\\&|F|A|R|B|20260101||ADT^A08|F-1|P|2.5\r";
    if (argc < 5) return 2;
    state = strtoull(argv[3], NULL, 10) * 2654435761ULL + 1;
    snprintf(toml, sizeof toml,
             "data_dir = '%s'\n[spool]\nreserve = '1 MiB'\nsegment_size = '1 MiB'\n[[destination]]\nname = 'ris'\nprotocol = 'mllp'\n"
             "[[destination.endpoint]]\nname = 'a'\naddress = '%s'\n[[destination]]\nname = 'pacs'\nprotocol = 'dicom'\n"
             "[[destination.endpoint]]\nname = 'a'\naddress = '%s'\nae_title = 'X'\n", argv[1], argv[2], argv[2]);
    for (long calls = atol(argv[4]); calls > 0; calls--) {
        const unsigned s = next(SLOTS);
        const char *text = next(8) ? texts[next(10)] : NULL;
        const char *other = next(8) ? texts[next(10)] : NULL;
        const void *bytes = next(6) ? (const void *)message : NULL;
        const size_t len = bytes ? (next(10) ? sizeof message - 1 : huge[next(HUGE_LENGTHS)]) : (next(2) ? 0 : huge[next(HUGE_LENGTHS)]);
        unsigned long long number;
        uint64_t id = 0, left;
        size_t size;
        char *json = NULL;
        everpost_error **error = next(3) ? &errors[s] : NULL;
        everpost_error_free(error ? errors[s] : NULL);
        switch (next(36)) {
        case 0: if (!configs[s]) everpost_config_new(&configs[s]); else everpost_config_new(NULL); break;
        case 1: everpost_config_load_string(ANY(configs), next(2) ? toml : text, error); break;
        case 2: everpost_config_load_file(ANY(configs), text, error); break;
        case 3: everpost_config_set(ANY(configs), text, other, next(2) ? "1" : text, error); break;
        case 4: everpost_config_add_destination(ANY(configs), text, other, error); break;
        case 5: everpost_config_add_endpoint(ANY(configs), text, other, text, other, error); break;
        case 6: if (next(10) == 0) everpost_config_free(ANY(configs)); break;
        case 7: case 8: everpost_open(ANY(configs), &clients[s], error); break;
        case 9: if (next(6) == 0) everpost_close(ANY(clients), next(20), next(2) ? &left : NULL); break;
        case 10: case 11: case 12: everpost_submit_hl7(ANY(clients), text, bytes, len, next(4) ? &id : NULL, error); break;
        case 13: everpost_submit_dicom(ANY(clients), text, bytes, len, &id, error); break;
        case 14: everpost_submit_dicom_file(ANY(clients), text, other, &id, error); break;
        case 15: everpost_object_begin(ANY(clients), next(2) ? "pacs" : text, next(2) ? "1.2.3" : text, "1.2.3.4", "1.2.840.10008.1.2", &objects[s], error); break;
        case 16: case 17: everpost_object_write(ANY(objects), bytes, len, error); break;
        case 18: everpost_object_finish(ANY(objects), next(4) ? &id : NULL, error); break;
        case 19: everpost_object_abort(ANY(objects)); break;
        case 20: everpost_answer_free(answers[s]); answers[s] = NULL; everpost_send_hl7(ANY(clients), text, bytes, len, next(30), next(3) ? &answers[s] : NULL, error); break;
        case 21: if (next(2)) everpost_send_dicom(ANY(clients), text, bytes, len, next(30), NULL, error); else everpost_send_dicom_file(ANY(clients), text, other, next(30), NULL, error); break;
        case 22: everpost_echo(ANY(clients), text, next(20), error); break;
        case 23: case 24: everpost_event_free(events[s]); everpost_poll(ANY(clients), next(3), &events[s]); break;
        case 25: everpost_flush(ANY(clients), next(10), &left, error); break;
        case 26: if (everpost_status_json(ANY(clients), &json) == EVERPOST_OK) { everpost_string_free(json); everpost_string_free(json); } break;
        case 27: (void)everpost_event_fd(ANY(clients)); break;
        case 28: number = next(100); everpost_event_free(events[s]); everpost_outcome(ANY(clients), number, &events[s], error); break;
        case 29: (void)everpost_answer_bytes(ANY(answers), next(2) ? &size : NULL); (void)everpost_answer_status(ANY(answers)); break;
        case 30: (void)strlen(everpost_error_text(errors[s])); (void)everpost_error_code(ANY(errors)); break;
        case 31: (void)strlen(everpost_event_text(events[s])); (void)everpost_event_id(ANY(events)); (void)everpost_event_kind(ANY(events)); break;
        case 32: everpost_event_free(ANY(events)); break;
        case 33: everpost_error_free(ANY(errors)); break;
        case 34: everpost_config_set_data_dir(ANY(configs), next(2) ? argv[1] : text, error); break;
        default: everpost_string_free(NULL); (void)everpost_error_endpoint(ANY(errors)); (void)everpost_answer_endpoint(ANY(answers)); break;
        }
    }
    for (unsigned s = 0; s < SLOTS; s++) {
        everpost_object_abort(objects[s]);
        everpost_close(clients[s], 0, NULL);
        everpost_config_free(configs[s]);
        everpost_answer_free(answers[s]);
        everpost_error_free(errors[s]);
        everpost_event_free(events[s]);
    }
    puts("alive");
    return 0;
}

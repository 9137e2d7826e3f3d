/* 32 threads with 64 KiB of stack call everything on one client at once.   threads FOLDER HOST:PORT ROUNDS */
#include <everpost.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static everpost_client *client;
static int rounds;

static void *work(void *argument) {
    const int number = *(const int *)argument;
    for (int i = 0; i < rounds; i++) {
        char message[128];
        uint64_t id = 0;
        everpost_error *error = NULL;
        everpost_answer *answer = NULL;
        everpost_event *event = NULL;
        char *json = NULL;
        const int size = snprintf(message, sizeof message, "MSH|^~\\&|T|A|R|B|20260101||ADT^A08|T%d-%d|P|2.5\r", number, i);
        if (everpost_submit_hl7(client, "ris", message, (size_t)size, &id, &error) != EVERPOST_OK) {
            fprintf(stderr, "submit: %s\n", everpost_error_text(error));
            exit(1);
        }
        switch (number % 4) {
        case 0:
            if (everpost_send_hl7(client, "ris", message, (size_t)size, 30000, &answer, &error) != EVERPOST_OK) {
                fprintf(stderr, "send: %s\n", everpost_error_text(error));
                exit(1);
            }
            break;
        case 1: everpost_poll(client, 1, &event); break;
        case 2: if (everpost_status_json(client, &json) != EVERPOST_OK || strlen(json) < 2) exit(1); break;
        default: everpost_outcome(client, id, &event, NULL); break;
        }
        everpost_answer_free(answer);
        everpost_event_free(event);
        everpost_string_free(json);
    }
    return NULL;
}

int main(int argc, char **argv) {
    everpost_config *config = NULL;
    everpost_error *error = NULL;
    pthread_t threads[32];
    int numbers[32];
    pthread_attr_t small;
    uint64_t left = 1;
    if (argc < 4) return 2;
    rounds = atoi(argv[3]);
    everpost_config_new(&config);
    if (everpost_config_set_data_dir(config, argv[1], &error) || everpost_config_set(config, "spool", "reserve", "\"1 MiB\"", &error) ||
        everpost_config_add_destination(config, "ris", "mllp", &error) ||
        everpost_config_add_endpoint(config, "ris", "a", argv[2], NULL, &error) || everpost_open(config, &client, &error)) {
        fprintf(stderr, "%s\n", everpost_error_text(error));
        return 1;
    }
    everpost_config_free(config);
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, PTHREAD_STACK_MIN > 65536 ? PTHREAD_STACK_MIN : 65536);
    for (int i = 0; i < 32; i++) {
        numbers[i] = i;
        if (pthread_create(&threads[i], &small, work, &numbers[i]) != 0) return 1;
    }
    for (int i = 0; i < 32; i++) pthread_join(threads[i], NULL);
    pthread_attr_destroy(&small);
    if (everpost_flush(client, 60000, &left, &error) != EVERPOST_OK || everpost_close(client, 1000, &left) != EVERPOST_OK || left != 0) return 1;
    puts("done");
    return 0;
}

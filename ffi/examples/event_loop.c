/* Delivery reports in an event loop (epoll here; select, poll, Qt's QSocketNotifier and GLib's g_unix_fd_add take the same descriptor).
 *
 *   cc event_loop.c -o event_loop $(pkg-config --cflags --libs everpost)
 *   ./event_loop SPOOL-FOLDER HOST:PORT MESSAGES */
#include <everpost.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

int main(int argc, char **argv) {
    everpost_config *config = NULL;
    everpost_client *client = NULL;
    everpost_error *error = NULL;
    struct epoll_event watched = {.events = EPOLLIN, .data = {.ptr = NULL}};
    int loop, wanted, done = 0;

    if (argc < 4) {
        fprintf(stderr, "usage: %s SPOOL-FOLDER HOST:PORT MESSAGES\n", argv[0]);
        return 2;
    }
    wanted = atoi(argv[3]);
    everpost_config_new(&config);
    if (everpost_config_set_data_dir(config, argv[1], &error) != EVERPOST_OK ||
        everpost_config_add_destination(config, "ris", "mllp", &error) != EVERPOST_OK ||
        everpost_config_add_endpoint(config, "ris", "primary", argv[2], NULL, &error) != EVERPOST_OK ||
        everpost_open(config, &client, &error) != EVERPOST_OK) {
        fprintf(stderr, "%s\n", everpost_error_text(error));
        everpost_error_free(error);
        everpost_config_free(config);
        return 2;
    }
    everpost_config_free(config);
    for (int i = 0; i < wanted; i++) {
        char message[128];
        const int size = snprintf(message, sizeof message, "MSH|^~\\&|LOOP|A|RIS|B|20260101||ADT^A08|LOOP-%d|P|2.5\r", i);
        if (everpost_submit_hl7(client, "ris", message, (size_t)size, NULL, NULL) != EVERPOST_OK) {
            wanted--;
        }
    }
    loop = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(loop, EPOLL_CTL_ADD, everpost_event_fd(client), &watched);
    while (done < wanted) {
        struct epoll_event ready;
        everpost_event *event = NULL;
        if (epoll_wait(loop, &ready, 1, 30000) != 1) {
            break; /* nothing in half a minute */
        }
        while (everpost_poll(client, 0, &event) == EVERPOST_OK && event != NULL) {
            done += everpost_event_kind(event) == EVERPOST_EVENT_DELIVERED;
            everpost_event_free(event);
        }
    }
    close(loop);
    everpost_close(client, 1000, NULL);
    printf("%d of %d delivered\n", done, wanted);
    return done == wanted ? 0 : 1;
}

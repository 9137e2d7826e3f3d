/* Submits numbered messages until it is killed, and says each number once its id was returned.   submitter FOLDER HOST:PORT FIRST COUNT
 * With COUNT 0 it delivers what waits, and ends. Also: the child of a fork is told so. */
#include <everpost.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    everpost_config *config = NULL;
    everpost_client *client = NULL;
    everpost_error *error = NULL;
    if (argc < 5) return 2;
    everpost_config_new(&config);
    if (everpost_config_set_data_dir(config, argv[1], &error) || everpost_config_set(config, "spool", "reserve", "\"1 MiB\"", &error) ||
        everpost_config_add_destination(config, "ris", "mllp", &error) ||
        everpost_config_add_endpoint(config, "ris", "a", argv[2], NULL, &error) ||
        everpost_config_set(config, "ris", "retry", "{ first = \"10ms\", max = \"100ms\" }", &error) || everpost_open(config, &client, &error)) {
        fprintf(stderr, "%s\n", everpost_error_text(error));
        return 1;
    }
    everpost_config_free(config);
    if (atoi(argv[4]) == 0) {
        uint64_t left = 0;
        const pid_t child = fork();
        if (child == 0) {
            const everpost_code told = everpost_flush(client, 0, NULL, NULL);
            if (told != EVERPOST_FORKED || everpost_close(client, 0, NULL) != EVERPOST_FORKED) _exit(1);
            /* One of its own, in another folder, is as good as any. */
            char folder[4096];
            everpost_client *own = NULL;
            snprintf(folder, sizeof folder, "%s-child", argv[1]);
            if (everpost_config_new(&config) || everpost_config_set_data_dir(config, folder, NULL) ||
                everpost_config_set(config, "spool", "reserve", "\"1 MiB\"", NULL) || everpost_config_add_destination(config, "ris", "mllp", NULL) ||
                everpost_config_add_endpoint(config, "ris", "a", "127.0.0.1:1", NULL, NULL) || everpost_open(config, &own, NULL)) _exit(2);
            static const char message[] = "MSH|^~\\&|K|A|R|B|20260101||ADT^A08|CHILD|P|2.5\r";
            uint64_t id = 0;
            if (everpost_submit_hl7(own, "ris", message, sizeof message - 1, &id, NULL) || id == 0) _exit(3);
            _exit(everpost_close(own, 0, &left) == EVERPOST_OK && left == 1 ? 0 : 4);
        }
        int status = 1;
        waitpid(child, &status, 0);
        const everpost_code code = everpost_flush(client, 60000, &left, NULL);
        everpost_close(client, 1000, NULL);
        return code == EVERPOST_OK && status == 0 ? 0 : 1;
    }
    const long first = atol(argv[3]), count = atol(argv[4]);
    for (long number = first; number < first + count; number++) {
        char message[128];
        uint64_t id = 0;
        const int size = snprintf(message, sizeof message, "MSH|^~\\&|K|A|R|B|20260101||ADT^A08|%ld|P|2.5\r", number);
        if (everpost_submit_hl7(client, "ris", message, (size_t)size, &id, &error) != EVERPOST_OK) {
            fprintf(stderr, "%s\n", everpost_error_text(error));
            return 1;
        }
        char line[32];
        const int length = snprintf(line, sizeof line, "%ld\n", number);
        if (write(1, line, (size_t)length) != length) return 1;
    }
    pause();
    return 0;
}

/* Sends one HL7 message and prints the acknowledgement.
 *
 *   cc send_hl7.c -o send_hl7 $(pkg-config --cflags --libs everpost)
 *   ./send_hl7 SPOOL-FOLDER HOST:PORT [HOST:PORT of a second receiver]
 *
 * Exit status: 0 accepted, 1 refused, 2 wrong arguments, 3 sent and not answered (it may have arrived), 4 not sent (safe to try elsewhere). */
#include <everpost.h>
#include <stdio.h>
#include <string.h>

static int fail(const char *doing, everpost_error *error) {
    const everpost_code code = everpost_error_code(error);
    fprintf(stderr, "%s: %s: %s\n", doing, everpost_error_name(error), everpost_error_text(error));
    everpost_error_free(error);
    return code == EVERPOST_NEGATIVE ? 1 : code == EVERPOST_UNANSWERED ? 3 : code == EVERPOST_NOT_SENT ? 4 : 2;
}

int main(int argc, char **argv) {
    static const char message[] = "MSH|^~\\&|CONSOLE|ROOM1|RIS|HOSPITAL|20260101120000||ORU^R01|CONSOLE-1|P|2.5\r"
                                  "PID|1||4711^^^TEST\r"
                                  "OBX|1|TX|1^NOTE||synthetic||||||F\r";
    everpost_config *config = NULL;
    everpost_client *client = NULL;
    everpost_answer *answer = NULL;
    everpost_error *error = NULL;
    int status = 0;

    if (argc < 3) {
        fprintf(stderr, "usage: %s SPOOL-FOLDER HOST:PORT [HOST:PORT]\n", argv[0]);
        return 2;
    }
    if (everpost_config_new(&config) != EVERPOST_OK) {
        return 2;
    }
    if (everpost_config_expect(config, EVERPOST_ABI) != EVERPOST_OK || everpost_config_set_data_dir(config, argv[1], &error) != EVERPOST_OK ||
        everpost_config_add_destination(config, "ris", "mllp", &error) != EVERPOST_OK ||
        everpost_config_add_endpoint(config, "ris", "primary", argv[2], NULL, &error) != EVERPOST_OK ||
        (argc > 3 && everpost_config_add_endpoint(config, "ris", "secondary", argv[3], NULL, &error) != EVERPOST_OK) ||
        everpost_open(config, &client, &error) != EVERPOST_OK) {
        status = fail("open", error);
    } else if (everpost_send_hl7(client, "ris", message, strlen(message), 10000, &answer, &error) != EVERPOST_OK) {
        status = fail("send", error);
    }
    if (answer != NULL) {
        size_t size = 0;
        const char *bytes = everpost_answer_bytes(answer, &size);
        printf("%s answered:\n", everpost_answer_endpoint(answer));
        for (size_t i = 0; i < size; i++) {
            putchar(bytes[i] == '\r' ? '\n' : bytes[i]);
        }
    }
    everpost_answer_free(answer);
    everpost_close(client, 1000, NULL);
    everpost_config_free(config);
    return status;
}

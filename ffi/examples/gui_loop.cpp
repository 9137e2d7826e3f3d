/* A window's loop without a toolkit: it never waits for the network. Button presses submit messages; a timer and the descriptor of the client wake it.
 *
 *   c++ -std=c++17 gui_loop.cpp -o gui_loop $(pkg-config --cflags --libs everpost)
 *   ./gui_loop SPOOL-FOLDER HOST:PORT PRESSES */
#include <cstdlib>
#include <everpost.hpp>
#include <iostream>
#include <poll.h>
#include <string>

using namespace std::chrono_literals;

int main(int argc, char **argv) try {
    if (argc < 4) {
        std::cerr << "usage: " << argv[0] << " SPOOL-FOLDER HOST:PORT PRESSES\n";
        return 2;
    }
    const int presses = std::atoi(argv[3]);
    everpost::Config config;
    config.data_dir(argv[1]).destination("ris", "mllp").endpoint("ris", "primary", argv[2]).set("ris", "ack_timeout", "\"5s\"");
    everpost::Client client(config);

    int pressed = 0, delivered = 0;
    const auto until = std::chrono::steady_clock::now() + 60s;
    while (delivered < presses && std::chrono::steady_clock::now() < until) {
        pollfd watched = {client.event_fd(), POLLIN, 0};
        poll(&watched, 1, 10); /* the tick of the window's timer */
        if (pressed < presses) {
            const std::string message = "MSH|^~\\&|GUI|A|RIS|B|20260101||ADT^A08|GUI-" + std::to_string(pressed) + "|P|2.5\r";
            if (const auto id = client.try_submit_hl7("ris", message)) {
                pressed++;
            } else {
                std::cerr << id.error().what() << '\n'; /* a window would say so, and keep the button */
                return 1;
            }
        }
        while (const auto event = client.poll(0ms)) {
            delivered += event->kind() == EVERPOST_EVENT_DELIVERED ? 1 : 0;
        }
    }
    std::cout << delivered << " of " << pressed << " delivered, " << client.close(1s) << " left\n";
    return delivered == presses ? 0 : 1;
} catch (const everpost::Error &error) {
    std::cerr << error.name() << ": " << error.what() << '\n';
    return 1;
}

/* A modality that streams frames into one object while it produces them, and sees it delivered.
 *
 *   c++ -std=c++17 modality.cpp -o modality $(pkg-config --cflags --libs everpost)
 *   ./modality SPOOL-FOLDER HOST:PORT AE-TITLE FRAMES */
#include <cstdlib>
#include <everpost.hpp>
#include <iostream>
#include <string>
#include <vector>

using namespace std::chrono_literals;

namespace {

constexpr std::size_t FRAME = 256 * 1024;
const std::string SOP_CLASS = "1.2.840.10008.5.1.4.1.1.7.2"; /* multi-frame grayscale byte secondary capture */

void put(std::string &out, unsigned group, unsigned element, const std::string &vr, std::string value) {
    if (value.size() % 2 == 1) {
        value += vr == "UI" ? '\0' : ' ';
    }
    for (unsigned number : {group, element}) {
        out += static_cast<char>(number & 0xff);
        out += static_cast<char>(number >> 8);
    }
    out += vr;
    out += static_cast<char>(value.size() & 0xff);
    out += static_cast<char>(value.size() >> 8);
    out += value;
}

} // namespace

int main(int argc, char **argv) try {
    if (argc < 5) {
        std::cerr << "usage: " << argv[0] << " SPOOL-FOLDER HOST:PORT AE-TITLE FRAMES\n";
        return 2;
    }
    const auto frames = static_cast<std::uint32_t>(std::strtoul(argv[4], nullptr, 10));
    everpost::Config config;
    config.data_dir(argv[1]).destination("pacs", "dicom").endpoint("pacs", "primary", argv[2], argv[3]);
    everpost::Client client(config);
    client.echo("pacs", 10s);

    const std::string instance = "2.25.815." + std::to_string(frames);
    std::string head;
    put(head, 0x0008, 0x0016, "UI", SOP_CLASS);
    put(head, 0x0008, 0x0018, "UI", instance);
    put(head, 0x0010, 0x0020, "LO", "TEST");
    put(head, 0x0020, 0x000D, "UI", "2.25.815");
    put(head, 0x0028, 0x0008, "IS", std::to_string(frames));
    head += std::string("\xe0\x7f\x10\x00OB\0\0", 8);
    const std::uint32_t size = frames * static_cast<std::uint32_t>(FRAME);
    for (int shift = 0; shift < 32; shift += 8) {
        head += static_cast<char>(size >> shift & 0xff);
    }

    everpost::Object object = client.begin("pacs", SOP_CLASS, instance, "1.2.840.10008.1.2.1");
    object.write(head);
    std::vector<unsigned char> frame(FRAME);
    for (std::uint32_t number = 0; number < frames; number++) {
        frame.assign(FRAME, static_cast<unsigned char>(number));
        object.write(frame);
    }
    const std::uint64_t id = object.finish();
    std::cout << id << " is safe on disk\n";
    while (const auto event = client.poll(60s)) {
        std::cout << event->id() << ' ' << event->text() << '\n';
        if (event->id() == id && event->is_outcome()) {
            return event->kind() <= EVERPOST_EVENT_DELIVERED_WITH_WARNING ? 0 : 1;
        }
    }
    return 1;
} catch (const everpost::Error &error) {
    std::cerr << error.name() << ": " << error.what() << '\n';
    return 1;
}

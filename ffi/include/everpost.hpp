/* everpost.hpp: a thin C++17 layer over everpost.h. Handles are move-only and free themselves; errors are exceptions (everpost::Error), or, with the
 * try_ functions, values (everpost::Result). Inputs are anything with data() and size(). Everything is inline: link with -leverpost. */
#ifndef EVERPOST_HPP
#define EVERPOST_HPP

#include "everpost.h"

#include <chrono>
#include <new>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

namespace everpost {

using std::chrono::milliseconds;

namespace detail {

inline std::uint32_t count(milliseconds time) {
    if (time.count() <= 0) {
        return 0;
    }
    return time.count() >= INT64_C(0xFFFFFFFF) ? 0xFFFFFFFFU : static_cast<std::uint32_t>(time.count());
}

/* One owner of a handle. */
template <typename H, void (*Free)(H *)>
class Owner {
  public:
    Owner() noexcept = default;
    explicit Owner(H *handle) noexcept : handle_(handle) {}
    Owner(Owner &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Owner &operator=(Owner &&other) noexcept {
        if (this != &other) {
            reset(std::exchange(other.handle_, nullptr));
        }
        return *this;
    }
    Owner(const Owner &) = delete;
    Owner &operator=(const Owner &) = delete;
    ~Owner() { reset(nullptr); }
    H *get() const noexcept { return handle_; }
    H **out() noexcept {
        reset(nullptr);
        return &handle_;
    }
    H *release() noexcept { return std::exchange(handle_, nullptr); }
    void reset(H *handle) noexcept {
        if (handle_ != nullptr) {
            Free(handle_);
        }
        handle_ = handle;
    }
    explicit operator bool() const noexcept { return handle_ != nullptr; }

  private:
    H *handle_ = nullptr;
};

} // namespace detail

/* Some bytes of the caller's. */
class Bytes {
  public:
    Bytes(const void *data, std::size_t size) noexcept : data_(data), size_(size) {}
    template <typename T, typename = std::enable_if_t<sizeof(*std::declval<const T &>().data()) == 1>>
    Bytes(const T &range) noexcept : data_(range.data()), size_(range.size()) {}
    const void *data() const noexcept { return data_; }
    std::size_t size() const noexcept { return size_; }

  private:
    const void *data_;
    std::size_t size_;
};

/* A peer's answer. */
class Answer {
  public:
    explicit Answer(everpost_answer *handle) noexcept : handle_(handle) {}
    std::string_view bytes() const noexcept {
        std::size_t size = 0;
        const void *data = everpost_answer_bytes(handle_.get(), &size);
        return {static_cast<const char *>(data), size};
    }
    std::uint32_t status() const noexcept { return everpost_answer_status(handle_.get()); }
    std::string endpoint() const { return everpost_answer_endpoint(handle_.get()); }
    explicit operator bool() const noexcept { return static_cast<bool>(handle_); }

  private:
    detail::Owner<everpost_answer, everpost_answer_free> handle_;
};

/* What went wrong. */
class Error : public std::runtime_error {
  public:
    Error(everpost_code code, const everpost_error *error)
        : std::runtime_error(error != nullptr ? everpost_error_text(error) : "everpost: no text"), code_(code), phase_(everpost_error_phase(error)),
          name_(error != nullptr ? everpost_error_name(error) : ""), endpoint_(everpost_error_endpoint(error)),
          retriable_(everpost_error_is_retriable(error)) {}
    everpost_code code() const noexcept { return code_; }
    everpost_phase phase() const noexcept { return phase_; }
    const std::string &name() const noexcept { return name_; }
    const std::string &endpoint() const noexcept { return endpoint_; }
    bool is_retriable() const noexcept { return retriable_; }

  private:
    everpost_code code_;
    everpost_phase phase_;
    std::string name_, endpoint_;
    bool retriable_;
};

/* A value, or why there is none. */
template <typename T>
class Result {
  public:
    Result(T value) : state_(std::move(value)) {}
    Result(Error error) : state_(std::move(error)) {}
    bool has_value() const noexcept { return state_.index() == 0; }
    explicit operator bool() const noexcept { return has_value(); }
    T &value() & { return check(), std::get<0>(state_); }
    T &&value() && { return check(), std::get<0>(std::move(state_)); }
    const Error &error() const { return std::get<1>(state_); }

  private:
    void check() const {
        if (!has_value()) {
            throw std::get<1>(state_);
        }
    }
    std::variant<T, Error> state_;
};

namespace detail {

using Failure = Owner<everpost_error, everpost_error_free>;

inline void check(everpost_code code, const Failure &error) {
    if (code != EVERPOST_OK) {
        throw Error(code, error.get());
    }
}

template <typename T>
Result<T> result(everpost_code code, const Failure &error, T value) {
    if (code != EVERPOST_OK) {
        return Error(code, error.get());
    }
    return value;
}

} // namespace detail

/* Something that happened. */
class Event {
  public:
    explicit Event(everpost_event *handle) noexcept : handle_(handle) {}
    everpost_event_kind_t kind() const noexcept { return everpost_event_kind(handle_.get()); }
    std::uint64_t id() const noexcept { return everpost_event_id(handle_.get()); }
    std::string destination() const { return everpost_event_destination(handle_.get()); }
    std::string endpoint() const { return everpost_event_endpoint(handle_.get()); }
    std::string text() const { return everpost_event_text(handle_.get()); }
    /* Whether it says what became of a message. */
    bool is_outcome() const noexcept { return kind() >= EVERPOST_EVENT_DELIVERED && kind() <= EVERPOST_EVENT_HELD; }

  private:
    detail::Owner<everpost_event, everpost_event_free> handle_;
};

/* Settings. */
class Config {
  public:
    Config() {
        if (everpost_config_new(handle_.out()) != EVERPOST_OK || everpost_config_expect(handle_.get(), EVERPOST_ABI) != EVERPOST_OK) {
            throw std::bad_alloc();
        }
    }
    static Config from_file(const std::string &path) {
        Config config;
        detail::Failure error;
        const everpost_code code = everpost_config_load_file(config.get(), path.c_str(), error.out());
        detail::check(code, error);
        return config;
    }
    static Config from_string(const std::string &toml) {
        Config config;
        detail::Failure error;
        const everpost_code code = everpost_config_load_string(config.get(), toml.c_str(), error.out());
        detail::check(code, error);
        return config;
    }
    Config &data_dir(const std::string &path) {
        detail::Failure error;
        const everpost_code code = everpost_config_set_data_dir(get(), path.c_str(), error.out());
        detail::check(code, error);
        return *this;
    }
    Config &destination(const std::string &name, const std::string &protocol) {
        detail::Failure error;
        const everpost_code code = everpost_config_add_destination(get(), name.c_str(), protocol.c_str(), error.out());
        detail::check(code, error);
        return *this;
    }
    Config &endpoint(const std::string &to, const std::string &name, const std::string &address, const std::optional<std::string> &ae_title = {}) {
        detail::Failure error;
        const char *title = ae_title ? ae_title->c_str() : nullptr;
        const everpost_code code = everpost_config_add_endpoint(get(), to.c_str(), name.c_str(), address.c_str(), title, error.out());
        detail::check(code, error);
        return *this;
    }
    Config &set(const std::string &table, const std::string &key, const std::string &value) {
        detail::Failure error;
        const everpost_code code = everpost_config_set(get(), table.c_str(), key.c_str(), value.c_str(), error.out());
        detail::check(code, error);
        return *this;
    }
    everpost_config *get() const noexcept { return handle_.get(); }

  private:
    detail::Owner<everpost_config, everpost_config_free> handle_;
};

/* A DICOM object that is being written. Given up if it is not finished. */
class Object {
  public:
    explicit Object(everpost_object *handle) noexcept : handle_(handle) {}
    void write(Bytes data) {
        detail::Failure error;
        const everpost_code code = everpost_object_write(handle_.get(), data.data(), data.size(), error.out());
        detail::check(code, error);
    }
    std::uint64_t finish() {
        detail::Failure error;
        std::uint64_t id = 0;
        const everpost_code code = everpost_object_finish(handle_.release(), &id, error.out());
        detail::check(code, error);
        return id;
    }

  private:
    detail::Owner<everpost_object, everpost_object_abort> handle_;
};

/* The engine. Its functions may be called from any thread, also at once. Destroying it closes it without waiting. */
class Client {
  public:
    explicit Client(const Config &config) {
        detail::Failure error;
        const everpost_code code = everpost_open(config.get(), handle_.out(), error.out());
        detail::check(code, error);
    }

    std::uint64_t submit_hl7(const std::string &to, Bytes message) { return try_submit_hl7(to, message).value(); }
    Result<std::uint64_t> try_submit_hl7(const std::string &to, Bytes message) {
        detail::Failure error;
        std::uint64_t id = 0;
        const everpost_code code = everpost_submit_hl7(get(), to.c_str(), message.data(), message.size(), &id, error.out());
        return detail::result(code, error, id);
    }
    std::uint64_t submit_dicom_file(const std::string &to, const std::string &path) { return try_submit_dicom_file(to, path).value(); }
    Result<std::uint64_t> try_submit_dicom_file(const std::string &to, const std::string &path) {
        detail::Failure error;
        std::uint64_t id = 0;
        const everpost_code code = everpost_submit_dicom_file(get(), to.c_str(), path.c_str(), &id, error.out());
        return detail::result(code, error, id);
    }
    std::uint64_t submit_dicom(const std::string &to, Bytes part10) {
        detail::Failure error;
        std::uint64_t id = 0;
        const everpost_code code = everpost_submit_dicom(get(), to.c_str(), part10.data(), part10.size(), &id, error.out());
        detail::check(code, error);
        return id;
    }
    Object begin(const std::string &to, const std::string &sop_class, const std::string &sop_instance, const std::string &transfer_syntax) {
        detail::Failure error;
        everpost_object *object = nullptr;
        const everpost_code code =
            everpost_object_begin(get(), to.c_str(), sop_class.c_str(), sop_instance.c_str(), transfer_syntax.c_str(), &object, error.out());
        detail::check(code, error);
        return Object(object);
    }

    Answer send_hl7(const std::string &to, Bytes message, milliseconds within) { return try_send_hl7(to, message, within).value(); }
    Result<Answer> try_send_hl7(const std::string &to, Bytes message, milliseconds within) {
        detail::Failure error;
        everpost_answer *answer = nullptr;
        const everpost_code code =
            everpost_send_hl7(get(), to.c_str(), message.data(), message.size(), detail::count(within), &answer, error.out());
        return answered(code, error, answer);
    }
    Answer send_dicom_file(const std::string &to, const std::string &path, milliseconds within) {
        detail::Failure error;
        everpost_answer *answer = nullptr;
        const everpost_code code = everpost_send_dicom_file(get(), to.c_str(), path.c_str(), detail::count(within), &answer, error.out());
        return answered(code, error, answer).value();
    }
    void echo(const std::string &to, milliseconds within) {
        detail::Failure error;
        const everpost_code code = everpost_echo(get(), to.c_str(), detail::count(within), error.out());
        detail::check(code, error);
    }

    std::optional<Event> poll(milliseconds within) {
        everpost_event *event = nullptr;
        detail::check(everpost_poll(get(), detail::count(within), &event), detail::Failure());
        return event != nullptr ? std::optional<Event>(Event(event)) : std::nullopt;
    }
    everpost_descriptor event_fd() const noexcept { return everpost_event_fd(get()); }
    Event outcome(std::uint64_t id) {
        detail::Failure error;
        everpost_event *event = nullptr;
        const everpost_code code = everpost_outcome(get(), id, &event, error.out());
        detail::check(code, error);
        return Event(event);
    }
    /* How many messages still wait; 0: none. */
    std::uint64_t flush(milliseconds within) {
        detail::Failure error;
        std::uint64_t left = 0;
        const everpost_code code = everpost_flush(get(), detail::count(within), &left, error.out());
        if (code != EVERPOST_TIMEOUT) {
            detail::check(code, error);
        }
        return left;
    }
    std::string status_json() const {
        char *json = nullptr;
        detail::check(everpost_status_json(get(), &json), detail::Failure());
        std::string text(json);
        everpost_string_free(json);
        return text;
    }
    /* How many messages wait for the next start. */
    std::uint64_t close(milliseconds within) {
        std::uint64_t left = 0;
        detail::check(everpost_close(handle_.release(), detail::count(within), &left), detail::Failure());
        return left;
    }
    everpost_client *get() const noexcept { return handle_.get(); }

  private:
    static void end(everpost_client *client) { (void)everpost_close(client, 0, nullptr); }
    static Result<Answer> answered(everpost_code code, const detail::Failure &error, everpost_answer *answer) {
        Answer owned(answer);
        if (code != EVERPOST_OK) {
            return Error(code, error.get());
        }
        return Result<Answer>(std::move(owned));
    }
    detail::Owner<everpost_client, end> handle_;
};

inline std::string_view version() noexcept { return everpost_version(); }

} // namespace everpost

#endif

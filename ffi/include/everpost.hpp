/* everpost.hpp: a thin C++17 layer over everpost.h. Handles are move-only and free themselves; errors are exceptions (everpost::Error), or, with the
 * try_ functions, values (everpost::Result). Inputs are anything with data() and size(). Everything is inline: link with -leverpost. Built without
 * exceptions (-fno-exceptions), what would throw ends the program: use the try_ functions there, and ask before value(). */
#ifndef EVERPOST_HPP
#define EVERPOST_HPP

#include "everpost.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
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

/* What went wrong. Of EVERPOST_NEGATIVE, status and answer are the peer's. */
class Error : public std::runtime_error {
  public:
    Error(everpost_code code, const everpost_error *error)
        : std::runtime_error(everpost_error_text(error)), code_(code), phase_(everpost_error_phase(error)), name_(everpost_error_name(error)),
          endpoint_(everpost_error_endpoint(error)), retriable_(everpost_error_is_retriable(error)) {}
    Error(everpost_code code, const everpost_error *error, const Answer &answer) : Error(code, error) {
        status_ = answer.status();
        answer_ = answer.bytes();
    }
    Error(everpost_code code, const std::string &what)
        : std::runtime_error(what), code_(code), phase_(EVERPOST_PHASE_NONE), name_("code " + std::to_string(static_cast<int>(code))), retriable_(false) {}
    everpost_code code() const noexcept { return code_; }
    everpost_phase phase() const noexcept { return phase_; }
    const std::string &name() const noexcept { return name_; }
    const std::string &endpoint() const noexcept { return endpoint_; }
    bool is_retriable() const noexcept { return retriable_; }
    std::uint32_t status() const noexcept { return status_; }
    const std::string &answer() const noexcept { return answer_; }

  private:
    everpost_code code_;
    everpost_phase phase_;
    std::string name_, endpoint_, answer_;
    std::uint32_t status_ = 0;
    bool retriable_;
};

/* A value, or why there is none. */
namespace detail {

template <typename E>
[[noreturn]] inline void raise(const E &error) {
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
    throw error;
#else
    (void)error;
    std::abort();
#endif
}

} // namespace detail

template <typename T>
class [[nodiscard]] Result {
  public:
    Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}
    bool has_value() const noexcept { return state_.index() == 0; }
    explicit operator bool() const noexcept { return has_value(); }
    T &value() & { return check(), std::get<0>(state_); }
    const T &value() const & { return check(), std::get<0>(state_); }
    T &&value() && { return check(), std::get<0>(std::move(state_)); }
    T &operator*() & { return value(); }
    const T &operator*() const & { return value(); }
    T *operator->() { return &value(); }
    const T *operator->() const { return &value(); }
    /* Only where there is no value. */
    const Error &error() const { return std::get<1>(state_); }

  private:
    void check() const {
        if (!has_value()) {
            detail::raise(std::get<1>(state_));
        }
    }
    std::variant<T, Error> state_;
};

/* The same where there is nothing to have but success. */
template <>
class [[nodiscard]] Result<void> {
  public:
    Result() = default;
    Result(Error error) : error_(std::move(error)) {}
    bool has_value() const noexcept { return !error_; }
    explicit operator bool() const noexcept { return has_value(); }
    void value() const {
        if (error_) {
            detail::raise(*error_);
        }
    }
    const Error &error() const { return error_.value(); }

  private:
    std::optional<Error> error_;
};

namespace detail {

using Failure = Owner<everpost_error, everpost_error_free>;

inline void end(everpost_client *client) { (void)everpost_close(client, 0, nullptr); }
inline void give_up(everpost_object *object) { (void)everpost_object_abort(object); }

/* Calls a function of C with a place for its error as last argument. */
template <typename Call>
Result<void> run(Call &&call) {
    Failure error;
    const everpost_code code = call(error.out());
    return code == EVERPOST_OK ? Result<void>() : Result<void>(Error(code, error.get()));
}

/* The same for one that also returns a value by a pointer, as first argument. */
template <typename T, typename Call>
Result<T> get(T value, Call &&call) {
    Failure error;
    const everpost_code code = call(&value, error.out());
    return code == EVERPOST_OK ? Result<T>(std::move(value)) : Result<T>(Error(code, error.get()));
}

/* One that returns a handle, for which there is a class. */
template <typename T, typename H, typename Call>
Result<T> own(Call &&call) {
    Failure error;
    H *handle = nullptr;
    const everpost_code code = call(&handle, error.out());
    T owned(handle);
    return code == EVERPOST_OK ? Result<T>(std::move(owned)) : Result<T>(Error(code, error.get()));
}

/* One without an error object. */
inline void plain(everpost_code code, const char *what) {
    if (code != EVERPOST_OK) {
        raise(Error(code, std::string(what) + ": code " + std::to_string(static_cast<int>(code))));
    }
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

/* Settings. What they hold is checked when the client is opened. */
class Config {
  public:
    Config() {
        if (everpost_config_new(handle_.out()) != EVERPOST_OK || everpost_config_expect(handle_.get(), EVERPOST_ABI) != EVERPOST_OK) {
            detail::raise(std::bad_alloc());
        }
    }
    static Config from_file(const std::string &path) { return try_from_file(path).value(); }
    static Result<Config> try_from_file(const std::string &path) {
        Config config;
        const auto done = detail::run([&](auto error) { return everpost_config_load_file(config.get(), path.c_str(), error); });
        return done ? Result<Config>(std::move(config)) : Result<Config>(done.error());
    }
    static Config from_string(const std::string &toml) { return try_from_string(toml).value(); }
    static Result<Config> try_from_string(const std::string &toml) {
        Config config;
        const auto done = detail::run([&](auto error) { return everpost_config_load_string(config.get(), toml.c_str(), error); });
        return done ? Result<Config>(std::move(config)) : Result<Config>(done.error());
    }
    Config &data_dir(const std::string &path) {
        detail::run([&](auto error) { return everpost_config_set_data_dir(get(), path.c_str(), error); }).value();
        return *this;
    }
    Config &destination(const std::string &name, const std::string &protocol) {
        detail::run([&](auto error) { return everpost_config_add_destination(get(), name.c_str(), protocol.c_str(), error); }).value();
        return *this;
    }
    Config &endpoint(const std::string &to, const std::string &name, const std::string &address, const std::optional<std::string> &ae_title = {}) {
        const char *title = ae_title ? ae_title->c_str() : nullptr;
        detail::run([&](auto error) {
            return everpost_config_add_endpoint(get(), to.c_str(), name.c_str(), address.c_str(), title, error);
        }).value();
        return *this;
    }
    Config &set(const std::string &table, const std::string &key, const std::string &value) {
        detail::run([&](auto error) { return everpost_config_set(get(), table.c_str(), key.c_str(), value.c_str(), error); }).value();
        return *this;
    }
    /* As everpost_config_on_event and everpost_config_on_log. A callback must not throw. */
    Config &on_event(everpost_on_event callback, void *user) {
        detail::plain(everpost_config_on_event(get(), callback, user), "on_event");
        return *this;
    }
    Config &on_log(std::uint32_t level, everpost_on_log callback, void *user) {
        detail::plain(everpost_config_on_log(get(), level, callback, user), "on_log");
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
    void write(Bytes data) { try_write(data).value(); }
    Result<void> try_write(Bytes data) {
        return detail::run([&](auto error) { return everpost_object_write(handle_.get(), data.data(), data.size(), error); });
    }
    std::uint64_t finish() { return try_finish().value(); }
    Result<std::uint64_t> try_finish() {
        return detail::get(std::uint64_t{0}, [&](auto id, auto error) { return everpost_object_finish(handle_.release(), id, error); });
    }
    void abort() noexcept { handle_.reset(nullptr); }

  private:
    detail::Owner<everpost_object, detail::give_up> handle_;
};

/* The engine. Its functions may be called from any thread, also at once. Destroying it closes it without waiting. */
class Client {
  public:
    explicit Client(const Config &config) : Client(open(config).value()) {}
    static Result<Client> open(const Config &config) {
        return detail::own<Client, everpost_client>([&](auto client, auto error) { return everpost_open(config.get(), client, error); });
    }

    std::uint64_t submit_hl7(const std::string &to, Bytes message) { return try_submit_hl7(to, message).value(); }
    Result<std::uint64_t> try_submit_hl7(const std::string &to, Bytes message) {
        return detail::get(std::uint64_t{0}, [&](auto id, auto error) {
            return everpost_submit_hl7(get(), to.c_str(), message.data(), message.size(), id, error);
        });
    }
    std::uint64_t submit_dicom_file(const std::string &to, const std::string &path) { return try_submit_dicom_file(to, path).value(); }
    Result<std::uint64_t> try_submit_dicom_file(const std::string &to, const std::string &path) {
        return detail::get(std::uint64_t{0}, [&](auto id, auto error) {
            return everpost_submit_dicom_file(get(), to.c_str(), path.c_str(), id, error);
        });
    }
    std::uint64_t submit_dicom(const std::string &to, Bytes part10) { return try_submit_dicom(to, part10).value(); }
    Result<std::uint64_t> try_submit_dicom(const std::string &to, Bytes part10) {
        return detail::get(std::uint64_t{0}, [&](auto id, auto error) {
            return everpost_submit_dicom(get(), to.c_str(), part10.data(), part10.size(), id, error);
        });
    }
    Object begin(const std::string &to, const std::string &sop_class, const std::string &sop_instance, const std::string &transfer_syntax) {
        return try_begin(to, sop_class, sop_instance, transfer_syntax).value();
    }
    Result<Object> try_begin(const std::string &to, const std::string &sop_class, const std::string &sop_instance,
                             const std::string &transfer_syntax) {
        return detail::own<Object, everpost_object>([&](auto object, auto error) {
            return everpost_object_begin(get(), to.c_str(), sop_class.c_str(), sop_instance.c_str(), transfer_syntax.c_str(), object, error);
        });
    }

    Answer send_hl7(const std::string &to, Bytes message, milliseconds within) { return try_send_hl7(to, message, within).value(); }
    Result<Answer> try_send_hl7(const std::string &to, Bytes message, milliseconds within) {
        return answered([&](auto answer, auto error) {
            return everpost_send_hl7(get(), to.c_str(), message.data(), message.size(), detail::count(within), answer, error);
        });
    }
    Answer send_dicom_file(const std::string &to, const std::string &path, milliseconds within) {
        return try_send_dicom_file(to, path, within).value();
    }
    Result<Answer> try_send_dicom_file(const std::string &to, const std::string &path, milliseconds within) {
        return answered([&](auto answer, auto error) {
            return everpost_send_dicom_file(get(), to.c_str(), path.c_str(), detail::count(within), answer, error);
        });
    }
    Answer send_dicom(const std::string &to, Bytes part10, milliseconds within) { return try_send_dicom(to, part10, within).value(); }
    Result<Answer> try_send_dicom(const std::string &to, Bytes part10, milliseconds within) {
        return answered([&](auto answer, auto error) {
            return everpost_send_dicom(get(), to.c_str(), part10.data(), part10.size(), detail::count(within), answer, error);
        });
    }
    void echo(const std::string &to, milliseconds within) { try_echo(to, within).value(); }
    Result<void> try_echo(const std::string &to, milliseconds within) {
        return detail::run([&](auto error) { return everpost_echo(get(), to.c_str(), detail::count(within), error); });
    }

    /* The oldest event; none if none came in time. */
    std::optional<Event> poll(milliseconds within) {
        everpost_event *event = nullptr;
        detail::plain(everpost_poll(get(), detail::count(within), &event), "poll");
        return event != nullptr ? std::optional<Event>(Event(event)) : std::nullopt;
    }
    everpost_descriptor event_fd() const noexcept { return everpost_event_fd(get()); }
    Event outcome(std::uint64_t id) { return try_outcome(id).value(); }
    Result<Event> try_outcome(std::uint64_t id) {
        return detail::own<Event, everpost_event>([&](auto event, auto error) { return everpost_outcome(get(), id, event, error); });
    }
    /* How many messages still wait; 0: none. */
    std::uint64_t flush(milliseconds within) {
        detail::Failure error;
        std::uint64_t left = 0;
        const everpost_code code = everpost_flush(get(), detail::count(within), &left, error.out());
        if (code != EVERPOST_OK && code != EVERPOST_TIMEOUT) {
            detail::raise(Error(code, error.get()));
        }
        return left;
    }
    std::string status_json() const {
        char *json = nullptr;
        detail::plain(everpost_status_json(get(), &json), "status_json");
        const std::unique_ptr<char, void (*)(char *)> owned(json, everpost_string_free);
        return owned.get();
    }
    /* How many messages wait for the next start. */
    std::uint64_t close(milliseconds within) {
        std::uint64_t left = 0;
        detail::plain(everpost_close(handle_.release(), detail::count(within), &left), "close");
        return left;
    }
    everpost_client *get() const noexcept { return handle_.get(); }

  private:
    template <typename T, typename H, typename Call>
    friend Result<T> detail::own(Call &&);
    explicit Client(everpost_client *handle) noexcept : handle_(handle) {}

    template <typename Call>
    static Result<Answer> answered(Call &&call) {
        detail::Failure error;
        everpost_answer *answer = nullptr;
        const everpost_code code = call(&answer, error.out());
        Answer owned(answer);
        return code == EVERPOST_OK ? Result<Answer>(std::move(owned)) : Result<Answer>(Error(code, error.get(), owned));
    }
    detail::Owner<everpost_client, detail::end> handle_;
};

inline std::string_view version() noexcept { return everpost_version(); }

} // namespace everpost

#endif

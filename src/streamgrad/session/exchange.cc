// One row in, one answer out, while a compiled loop keeps running.
//
// The loop calls `streamgrad_exchange` once per step. The call publishes the answer to the last row and returns with the
// next one. Python gives that row with `streamgrad_give`. Built by `python -m streamgrad.session`.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

// What is in the channel: nothing yet, an answer, a row, or the end.
enum Stage : uint32_t { kBusy, kAnswered, kGiven, kStopped };

struct Channel {
  Channel(size_t row_bytes, size_t answer_bytes) : row(row_bytes), answer(answer_bytes) {}
  std::atomic<uint32_t> stage{kBusy};
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<char> row, answer;
};

std::mutex channels_mutex;
std::unordered_map<uint32_t, std::shared_ptr<Channel>> channels;
uint32_t last_id = 0;

std::shared_ptr<Channel> Find(uint32_t id) {
  std::lock_guard<std::mutex> lock(channels_mutex);
  auto found = channels.find(id);
  return found == channels.end() ? nullptr : found->second;
}

void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// The next stage, unless the end has come.
bool Move(Channel& channel, Stage next) {
  {
    std::lock_guard<std::mutex> lock(channel.mutex);
    if (channel.stage.load(std::memory_order_relaxed) == kStopped) return false;
    channel.stage.store(next, std::memory_order_release);
  }
  channel.changed.notify_all();
  return true;
}

// Waits while `waiting(stage)`: first awake, for a thread that sleeps takes long to wake, then asleep. False: too long.
template <typename Waiting>
bool Await(Channel& channel, Waiting waiting, int turns, int64_t milliseconds) {
  auto ready = [&] { return !waiting(channel.stage.load(std::memory_order_acquire)); };
  for (int turn = 0; turn < turns; ++turn) {
    if (ready()) return true;
    turn % 32 == 31 ? std::this_thread::yield() : Pause();
  }
  std::unique_lock<std::mutex> lock(channel.mutex);
  if (milliseconds >= 0) return channel.changed.wait_for(lock, std::chrono::milliseconds(milliseconds), ready);
  channel.changed.wait(lock, ready);
  return true;
}

using Words = ffi::Buffer<ffi::U32>;

ffi::Error Exchange(Words id, Words answer, ffi::Result<Words> row, ffi::Result<Words> go) {
  go->typed_data()[0] = 0;
  std::memset(row->untyped_data(), 0, row->size_bytes());
  auto channel = Find(id.typed_data()[0]);
  if (!channel) return ffi::Error::Success();
  if (answer.size_bytes() != channel->answer.size() || row->size_bytes() != channel->row.size())
    return ffi::Error::InvalidArgument("a session's channel is of another size");
  std::memcpy(channel->answer.data(), answer.untyped_data(), answer.size_bytes());
  if (!Move(*channel, kAnswered)) return ffi::Error::Success();
  Await(*channel, [](uint32_t stage) { return stage == kAnswered; }, 2000, -1);
  if (channel->stage.load(std::memory_order_acquire) != kGiven) return ffi::Error::Success();
  std::memcpy(row->untyped_data(), channel->row.data(), channel->row.size());
  go->typed_data()[0] = 1;
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(streamgrad_exchange, Exchange,
                              ffi::Ffi::Bind().Arg<Words>().Arg<Words>().Ret<Words>().Ret<Words>());

extern "C" {

enum Code { kAnswer = 0, kNotYet = 1, kEnded = 2, kInUse = 3 };

uint32_t streamgrad_open(uint64_t row_bytes, uint64_t answer_bytes) {
  auto channel = std::make_shared<Channel>(row_bytes, answer_bytes);
  std::lock_guard<std::mutex> lock(channels_mutex);
  channels[++last_id] = channel;
  return last_id;
}

// The answer, waited for at most 50 ms, so that Python can look at its signals in between.
int streamgrad_await(uint32_t id, void* answer) {
  auto channel = Find(id);
  if (!channel) return kEnded;
  auto waiting = [](uint32_t stage) { return stage == kBusy || stage == kGiven; };
  if (!Await(*channel, waiting, 20000, 50)) return kNotYet;
  if (channel->stage.load(std::memory_order_acquire) != kAnswered) return kEnded;
  std::memcpy(answer, channel->answer.data(), channel->answer.size());
  return kAnswer;
}

int streamgrad_give(uint32_t id, const void* row, void* answer) {
  auto channel = Find(id);
  if (!channel) return kEnded;
  uint32_t stage = channel->stage.load(std::memory_order_acquire);
  if (stage != kAnswered) return stage == kStopped ? kEnded : kInUse;
  std::memcpy(channel->row.data(), row, channel->row.size());
  if (!Move(*channel, kGiven)) return kEnded;
  return streamgrad_await(id, answer);
}

void streamgrad_stop(uint32_t id) {
  if (auto channel = Find(id)) Move(*channel, kStopped);
}

void streamgrad_close(uint32_t id) {
  std::lock_guard<std::mutex> lock(channels_mutex);
  channels.erase(id);
}

}  // extern "C"

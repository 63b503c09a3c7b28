// Runs the kernels of this folder on a CPU, for tests only: included before the kernel's text in place of CUDA.
//
// Fibers (default): one thread of the system, in which each CUDA thread runs until its next barrier, in an order that
// the caller chooses; finds barriers that not all threads of a block reach. Threads (-DHOST_THREADS): one thread of the
// system per CUDA thread, for ThreadSanitizer and AddressSanitizer.
// Shared memory is a heap block of exactly the size that the launch asks for, all NaN when a block of threads starts.
// Not imitated: warps in lock-step, the memory model and the speed of a GPU, its limits on registers and launches.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>
#ifdef HOST_THREADS
#include <atomic>
#include <thread>
#else
#include <csetjmp>
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define SHARED_FLOATS(name) float *const name = host::running->shared.data()
#define __syncthreads() host::running->block_barrier(__LINE__)

struct Index3 {
    unsigned x, y, z;
};
static thread_local Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace host {

constexpr unsigned lanes = 32;
constexpr int end_of_kernel = -1;  // where a thread waits, in place of a line number
enum class Order { forward, reverse, shuffled };
using Body = void (*)(void **arguments);

// One launch: the threads of one block, which go through all blocks of the grid one after the other.
struct Run {
    Index3 grid, block;
    Body body;
    void **arguments;
    unsigned threads;
    std::vector<float> shared;
    std::vector<uint32_t> exchanged;  // two words per thread: a lane may go on before all others have read

    Run(Index3 grid_, Index3 block_, size_t shared_bytes, Body body_, void **arguments_)
        : grid(grid_), block(block_), body(body_), arguments(arguments_), threads(block_.x * block_.y * block_.z),
          shared(shared_bytes / sizeof(float)), exchanged(2 * threads)
    {
        if (threads == 0 || threads > 1024 || threads % lanes != 0)
            throw std::runtime_error("a block must be 1 to 32 whole warps");
    }
    void block_barrier(int line);
    void warp_barrier();
    void run(Order order, unsigned seed);

    // What one CUDA thread does.
    void thread_main(unsigned thread)
    {
        for (unsigned z = 0; z < grid.z; ++z)
            for (unsigned y = 0; y < grid.y; ++y)
                for (unsigned x = 0; x < grid.x; ++x) {
                    if (thread == 0)
                        std::fill(shared.begin(), shared.end(), std::numeric_limits<float>::quiet_NaN());
                    block_barrier(end_of_kernel);
                    enter(thread, {x, y, z});
                    body(arguments);
                    block_barrier(end_of_kernel);
                }
    }
    void enter(unsigned thread, Index3 of_block);
#ifdef HOST_THREADS
    // Orders what came before it in one thread with what comes after it in another, and nothing else: a mutex and its
    // condition would also order some accesses after it, and so hide a race from ThreadSanitizer by chance.
    struct Barrier {
        unsigned expected = 0;
        std::atomic<unsigned> arrived{0}, round{0};
        void wait()
        {
            const unsigned mine = round.load(std::memory_order_relaxed);
            if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == expected) {
                arrived.store(0, std::memory_order_relaxed);
                round.store(mine + 1, std::memory_order_release);
            }
            while (round.load(std::memory_order_acquire) == mine)
                std::this_thread::yield();
        }
    };
    Barrier whole_block;
    std::vector<Barrier> warps;
#else
    struct Fiber {
        enum class State { ready, at_block_barrier, at_warp_barrier, done } state = State::ready;
        bool started = false;
        int line = end_of_kernel;
        unsigned phase = 0;
        Index3 of_block{};
        ucontext_t context;
        jmp_buf at;
    };
    std::vector<Fiber> fibers;
    std::unique_ptr<char[]> stacks;
    jmp_buf scheduler;
    unsigned current = 0;
    void leave(typename Fiber::State state, int line);
    void resume(unsigned thread);
    bool run_warp(unsigned first, const std::vector<unsigned> &turns);
    bool release_block();
#endif
};

static thread_local Run *running;
static thread_local unsigned linear_thread, exchange_phase;

inline void Run::enter(unsigned thread, Index3 of_block)
{
    linear_thread = thread;
    blockDim = block;
    gridDim = grid;
    blockIdx = of_block;
    threadIdx = {thread % block.x, thread / block.x % block.y, thread / (block.x * block.y)};
#ifndef HOST_THREADS
    fibers[thread].of_block = of_block;
#endif
}

#ifdef HOST_THREADS

inline void Run::block_barrier(int) { whole_block.wait(); }
inline void Run::warp_barrier() { warps[linear_thread / lanes].wait(); }

inline void Run::run(Order, unsigned)
{
    warps = std::vector<Barrier>(threads / lanes);
    whole_block.expected = threads;
    for (Barrier &warp : warps)
        warp.expected = lanes;
    std::vector<std::thread> started;
    for (unsigned thread = 0; thread < threads; ++thread)
        started.emplace_back([this, thread] {
            running = this;
            exchange_phase = 0;
            thread_main(thread);
        });
    for (std::thread &each : started)
        each.join();
}

#else

constexpr size_t stack_bytes = 32 * 1024 + 320;  // no power of two: frames of neighbours must not share cache sets

// A context of ucontext starts a fiber; later switches are jumps, which make no system call.
inline void Run::leave(typename Fiber::State state, int line)
{
    Fiber &fiber = fibers[current];
    fiber.state = state;
    fiber.line = line;
    fiber.phase = exchange_phase;
    if (_setjmp(fiber.at) == 0)
        _longjmp(scheduler, 1);
}

inline void Run::block_barrier(int line) { leave(Fiber::State::at_block_barrier, line); }
inline void Run::warp_barrier() { leave(Fiber::State::at_warp_barrier, 0); }

static void start_fiber()
{
    running->thread_main(running->current);
    running->leave(Run::Fiber::State::done, end_of_kernel);
}

inline void Run::resume(unsigned thread)
{
    Fiber &fiber = fibers[thread];
    current = thread;
    exchange_phase = fiber.phase;
    enter(thread, fiber.of_block);
    if (_setjmp(scheduler) != 0)
        return;
    if (fiber.started)
        _longjmp(fiber.at, 1);
    fiber.started = true;
    setcontext(&fiber.context);
}

// Let each lane of a warp that can go on run to its next barrier; false where none could. Called until then, so that a
// warp is as far ahead of the others as barriers allow.
inline bool Run::run_warp(unsigned first, const std::vector<unsigned> &turns)
{
    bool went_on = false;
    for (const unsigned lane : turns)
        if (fibers[first + lane].state == Fiber::State::ready) {
            went_on = true;
            resume(first + lane);
        }
    const auto begin = fibers.begin() + first, end = begin + lanes;
    if (std::all_of(begin, end, [](const Fiber &fiber) { return fiber.state == Fiber::State::at_warp_barrier; })) {
        std::for_each(begin, end, [](Fiber &fiber) { fiber.state = Fiber::State::ready; });
        went_on = true;
    }
    return went_on;
}

// Let a block go on where all its threads wait at the same barrier; false where some are elsewhere.
inline bool Run::release_block()
{
    const int line = fibers[0].line;
    for (const Fiber &fiber : fibers)
        if (fiber.state != Fiber::State::at_block_barrier || fiber.line != line)
            return false;
    for (Fiber &fiber : fibers)
        fiber.state = Fiber::State::ready;
    return true;
}

inline void Run::run(Order order, unsigned seed)
{
    running = this;
    fibers.resize(threads);
    stacks.reset(new char[threads * stack_bytes]);
    for (unsigned thread = 0; thread < threads; ++thread) {
        ucontext_t &context = fibers[thread].context;
        getcontext(&context);
        context.uc_stack.ss_sp = stacks.get() + thread * stack_bytes;
        context.uc_stack.ss_size = stack_bytes;
        context.uc_link = nullptr;
        makecontext(&context, start_fiber, 0);
    }
    std::vector<unsigned> firsts, turns;  // the first thread of each warp, and the lanes of a warp
    for (unsigned first = 0; first < threads; first += lanes)
        firsts.push_back(first);
    for (unsigned lane = 0; lane < lanes; ++lane)
        turns.push_back(lane);
    if (order == Order::reverse) {
        std::reverse(firsts.begin(), firsts.end());
        std::reverse(turns.begin(), turns.end());
    }
    std::mt19937 random(seed);
    for (;;) {
        if (order == Order::shuffled) {
            std::shuffle(firsts.begin(), firsts.end(), random);
            std::shuffle(turns.begin(), turns.end(), random);
        }
        bool went_on = false;
        for (const unsigned first : firsts)
            while (run_warp(first, turns))
                went_on = true;
        if (std::all_of(fibers.begin(), fibers.end(), [](const Fiber &f) { return f.state == Fiber::State::done; }))
            return;
        if (!release_block() && !went_on)
            throw std::runtime_error("barrier divergence: the threads of a block wait at different barriers");
    }
}

#endif

// Give `value` to the other lanes of the warp; returns the value of the lane `distance` above, or one's own.
inline float shuffle_down(float value, unsigned distance)
{
    const unsigned lane = linear_thread % lanes;
    uint32_t *const words = running->exchanged.data() + running->threads * exchange_phase;
    exchange_phase ^= 1;
    std::memcpy(words + linear_thread, &value, sizeof value);
    running->warp_barrier();
    std::memcpy(&value, words + linear_thread + (lane + distance < lanes ? distance : 0), sizeof value);
    return value;
}

template <class... Arguments, size_t... Places>
void call_with(void (*kernel)(Arguments...), void **arguments, std::index_sequence<Places...>)
{
    kernel(*static_cast<std::remove_reference_t<Arguments> *>(arguments[Places])...);
}

template <class... Arguments>
void call(void (*kernel)(Arguments...), void **arguments)
{
    call_with(kernel, arguments, std::index_sequence_for<Arguments...>{});
}

template <class... Arguments>
constexpr unsigned arity(void (*)(Arguments...))
{
    return sizeof...(Arguments);
}

}  // namespace host

static inline float __shfl_down_sync(unsigned, float value, unsigned distance)
{
    return host::shuffle_down(value, distance);
}

// Runs the threads of a block as fibers of one thread of the host. A fiber runs until it waits or ends; then
// the emulator switches to another one at random, so that a missing barrier lets a thread run ahead of
// another one or behind it. AddressSanitizer sees every access to tensors and shared memory.
#include <cxxabi.h>
#include <dlfcn.h>
#include <sanitizer/common_interface_defs.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_runtime.h"

namespace emulation {
namespace {

constexpr size_t kStack = 256 * 1024;
constexpr unsigned kWarp = 32;

enum class Waits { no, for_warp, for_block, ended };

struct Copy {
    void* to;
    const void* from;
    int bytes, valid;

    void run() const {
        if (valid > 0) std::memcpy(to, from, valid);
        std::memset(static_cast<char*>(to) + valid, 0, bytes - valid);
    }
};

struct Fiber {
    std::unique_ptr<char[]> stack{new char[kStack]};
    ucontext_t context{};
    void* sanitizer = nullptr;
    uint3 index{};
    Waits waits = Waits::no;
    std::vector<Copy> open;                 // copies since the last commit
    std::vector<std::vector<Copy>> groups;  // committed ones
};

struct Shared {
    std::unique_ptr<char[]> bytes;
    size_t size;
};

std::mt19937 random_numbers([] {
    const char* seed = std::getenv("EMULATION_SEED");
    return seed == nullptr ? 0u : static_cast<unsigned>(std::atoi(seed));
}());
std::vector<std::unique_ptr<Fiber>> fibers;
std::map<const void*, Shared> shared;
Fiber* running = nullptr;
const std::function<void()>* body = nullptr;
ucontext_t scheduler;
void* scheduler_sanitizer = nullptr;
const void* scheduler_stack = nullptr;
size_t scheduler_stack_size = 0;

// AddressSanitizer has to know each change of stacks.
void enter() {
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);
    (*body)();
    running->waits = Waits::ended;
    __sanitizer_start_switch_fiber(nullptr, scheduler_stack, scheduler_stack_size);
    setcontext(&scheduler);
}

void resume(Fiber& fiber) {
    running = &fiber;
    threadIdx = fiber.index;
    __sanitizer_start_switch_fiber(&scheduler_sanitizer, fiber.stack.get(), kStack);
    swapcontext(&scheduler, &fiber.context);
    __sanitizer_finish_switch_fiber(scheduler_sanitizer, nullptr, nullptr);
}

void wait(Waits how) {
    Fiber& fiber = *running;
    fiber.waits = how;
    __sanitizer_start_switch_fiber(&fiber.sanitizer, scheduler_stack, scheduler_stack_size);
    swapcontext(&fiber.context, &scheduler);
    __sanitizer_finish_switch_fiber(fiber.sanitizer, &scheduler_stack, &scheduler_stack_size);
}

void start(Fiber& fiber, unsigned number) {
    fiber.index = {number % blockDim.x, number / blockDim.x % blockDim.y, number / blockDim.x / blockDim.y};
    fiber.waits = Waits::no;
    fiber.open.clear();
    fiber.groups.clear();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
}

bool all(unsigned first, unsigned last, Waits how) {
    for (unsigned i = first; i < last; ++i) {
        if (fibers[i]->waits != how) return false;
    }
    return true;
}

void release(unsigned first, unsigned last, std::vector<unsigned>& ready) {
    for (unsigned i = first; i < last; ++i) {
        fibers[i]->waits = Waits::no;
        ready.push_back(i);
    }
}

// How often each kernel ran, written to the file EMULATION_KERNELS when the process ends.
struct Launches {
    std::map<std::string, int> count;

    void add(const void* kernel) {
        Dl_info symbol{};
        if (dladdr(kernel, &symbol) == 0 || symbol.dli_sname == nullptr) return;
        const std::unique_ptr<char, void (*)(void*)> name(
            abi::__cxa_demangle(symbol.dli_sname, nullptr, nullptr, nullptr), std::free);
        if (name != nullptr) ++count[name.get()];
    }
    ~Launches() {
        const char* path = std::getenv("EMULATION_KERNELS");
        if (path == nullptr) return;
        std::ofstream file(path);
        for (const auto& [name, times] : count) file << times << ' ' << name << '\n';
    }
} launches;

void run_block() {
    const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    while (fibers.size() < threads) fibers.push_back(std::make_unique<Fiber>());
    std::vector<unsigned> ready;
    for (unsigned i = 0; i < threads; ++i) {
        start(*fibers[i], i);
        ready.push_back(i);
    }
    while (!ready.empty()) {
        std::shuffle(ready.begin(), ready.end(), random_numbers);
        for (unsigned i : ready) resume(*fibers[i]);
        ready.clear();
        for (unsigned first = 0; first < threads; first += kWarp) {
            const unsigned last = std::min(first + kWarp, threads);
            if (all(first, last, Waits::for_warp)) release(first, last, ready);
        }
        if (ready.empty() && all(0, threads, Waits::for_block)) release(0, threads, ready);
    }
    if (!all(0, threads, Waits::ended)) {
        throw std::runtime_error("emulation: threads of a block wait at a barrier that others do not reach");
    }
    shared.clear();
}

}  // namespace

void run(const void* name, dim3 grid, dim3 block, const std::function<void()>& kernel) {
    launches.add(name);
    check(block.x * block.y * block.z <= 1024 && grid.y <= 65535 && grid.z <= 65535 && grid.x <= INT32_MAX,
          "a block has at most 1024 threads, a grid at most 65535 blocks along y and z");
    body = &kernel;
    gridDim = grid;
    blockDim = block;
    std::vector<uint3> blocks;
    for (unsigned z = 0; z < grid.z; ++z) {
        for (unsigned y = 0; y < grid.y; ++y) {
            for (unsigned x = 0; x < grid.x; ++x) blocks.push_back({x, y, z});
        }
    }
    std::shuffle(blocks.begin(), blocks.end(), random_numbers);
    for (const uint3& index : blocks) {
        blockIdx = index;
        run_block();
    }
}

void wait_for_block() { wait(Waits::for_block); }

void wait_for_warp() { wait(Waits::for_warp); }

void* shared_memory(const void* owner, size_t bytes) {
    constexpr size_t alignment = 128;
    Shared& memory = shared[owner];
    if (memory.bytes == nullptr) {
        memory = {std::unique_ptr<char[]>(new char[bytes + alignment]), bytes};
        std::memset(memory.bytes.get(), 0xFF, bytes + alignment);  // NaN in every floating type
    }
    // Ends where the block's memory ends, as far as the alignment allows.
    const auto end = reinterpret_cast<uintptr_t>(memory.bytes.get()) + bytes + alignment;
    return reinterpret_cast<void*>((end - bytes) / alignment * alignment);
}

void copy_async(void* to, const void* from, int bytes, int valid) {
    check(bytes == 4 || bytes == 8 || bytes == 16, "an asynchronous copy has 4, 8 or 16 bytes");
    check(0 <= valid && valid <= bytes, "an asynchronous copy reads no more bytes than it writes");
    check(reinterpret_cast<uintptr_t>(to) % bytes == 0 && (reinterpret_cast<uintptr_t>(from) % bytes == 0),
          "the addresses of an asynchronous copy are aligned to its size");
    const Copy copy{to, from, bytes, valid};
    random_numbers() % 2 == 0 ? copy.run() : running->open.push_back(copy);
}

void commit_copies() {
    running->groups.push_back(std::move(running->open));
    running->open.clear();
}

void wait_for_copies(int pending) {
    auto& groups = running->groups;
    while (static_cast<int>(groups.size()) > pending) {
        std::shuffle(groups.front().begin(), groups.front().end(), random_numbers);
        for (const Copy& copy : groups.front()) copy.run();
        groups.erase(groups.begin());
    }
}

int lane() {
    const unsigned number = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    return static_cast<int>(number % kWarp);
}

void check(bool holds, const char* rule) {
    if (holds) return;
    std::fprintf(stderr, "emulation: a kernel breaks the rule that %s\n", rule);
    std::abort();
}

}  // namespace emulation

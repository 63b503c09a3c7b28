// The kernels as functions of a library or program on the CPU, for tests only: launched by name, as CUDA's driver does.
// KERNEL_TEXT names the kernels' source in quotes.
#include "host_shim.h"

#include KERNEL_TEXT

namespace {

struct Kernel {
    const char *name;
    unsigned arguments;
    host::Body body;
};

const Kernel kernels[] = {
    {"patch_gmsd_distances", host::arity(patch_gmsd_distances),
     [](void **arguments) { host::call(patch_gmsd_distances, arguments); }},
    {"patch_gmsd_scores", host::arity(patch_gmsd_scores),
     [](void **arguments) { host::call(patch_gmsd_scores, arguments); }},
};

thread_local std::string error;

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

// Run one kernel to its end: `arguments` points to each argument, as cuLaunchKernel's kernelParams do. order: 0 forward,
// 1 reverse, 2 shuffled by `seed`. Returns 0, or 1 where host_error() says what is wrong.
EXPORTED int host_launch(const char *name, const unsigned *grid, const unsigned *block, size_t shared_bytes,
                         void **arguments, unsigned argument_count, int order, unsigned seed)
{
    try {
        for (const Kernel &kernel : kernels)
            if (std::strcmp(kernel.name, name) == 0) {
                if (kernel.arguments != argument_count)
                    throw std::runtime_error("this kernel takes " + std::to_string(kernel.arguments) + " arguments");
                host::Run run({grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, shared_bytes, kernel.body,
                              arguments);
                run.run(static_cast<host::Order>(order), seed);
                return 0;
            }
        throw std::runtime_error("no such kernel");
    } catch (const std::runtime_error &problem) {
        error = std::string(name) + ": " + problem.what();
        return 1;
    }
}

EXPORTED const char *host_error() { return error.c_str(); }

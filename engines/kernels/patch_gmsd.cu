// Patch_GMSD of the dtkd paper (Eq. 12-17) on a GPU: part image and reconstruction -> region scores and part score.
//
// Two launches on one stream. patch_gmsd_distances: one block per pair of patches that Eq. 15 compares and per part.
// patch_gmsd_scores: one block per part. The tables are those of engines/kernels/plan.py, the float64 reference is
// engines/patch_gmsd.py. No atomics: each sum has one order, so that the same part gives the same bits in each run.
// Compiled by nvcc, by NVRTC (hence no #include) and, through host_shim.h, by a C++ compiler for the tests.

#ifndef SHARED_FLOATS
#define SHARED_FLOATS(name) extern __shared__ float name[]
#endif

static constexpr int warp_size = 32;
static constexpr unsigned whole_warp = 0xffffffffu;
static constexpr int most_threads = 512;  // per block; plan.MOST_THREADS

// Header of the int tables; the starts count ints from the beginning of the tables.
struct StageTables {
    int canvas_height, canvas_width, regions, pairs, workspace_floats;  // workspace: per part
    int by_deviation, multiply;
    int choices, most_patches, scales;  // pairs per patch; patches per region, scales per region, padded
    int pairs_start, choices_start, sums_start;
};

// Two patches of one size. workspace_at: where their levels lie in the part's workspace; below 0: in shared memory.
struct Pair {
    int first_top, first_left, second_top, second_left, second_is_reconstruction;
    int height, width, levels, workspace_at;
};

// Head of the float constants; one weight per region follows.
struct StageConstants {
    float red, green, blue;  // grey = red * R + green * G + blue * B, in [0, 1]
    float gms_c, epsilon;
};
static constexpr int constants_head = sizeof(StageConstants) / sizeof(float);

// Where a pair's levels lie: the pixels of both patches at all levels, then 1 - GMS of all levels but the first.
struct Levels {
    float *first, *second, *unlike;
};

// Count, mean and sum of squared deviations of some values: what Welford's method updates and merges.
struct Spread {
    float count, mean, squares;
};

// The inputs of one part.
struct Part {
    const unsigned char *image;
    const float *reconstruction;
};

static __device__ __forceinline__ int clamped(int index, int count)
{
    return index < 0 ? 0 : index >= count ? count - 1 : index;
}

// As fminf and fmaxf, but what is not a number stays: a fault upstream must not become a score.
static __device__ __forceinline__ float least(float a, float b)
{
    return a < b || a != a ? a : b;
}

static __device__ __forceinline__ float highest(float a, float b)
{
    return a > b || a != a ? a : b;
}

static __device__ __forceinline__ float grey_at(const unsigned char *image, size_t pixel, const StageConstants &k)
{
    const unsigned char *rgb = image + 3 * pixel;
    return rgb[0] * k.red + rgb[1] * k.green + rgb[2] * k.blue;
}

// Copy both patches into level one, the image's as grey values.
static __device__ __forceinline__ void load_patches(const Part &part, const StageTables &stage, const Pair &pair,
                                                    const StageConstants &k, const Levels &levels)
{
    for (int cell = threadIdx.x; cell < pair.height * pair.width; cell += blockDim.x) {
        const int y = cell / pair.width, x = cell % pair.width;
        const size_t first = (size_t)(pair.first_top + y) * stage.canvas_width + pair.first_left + x;
        const size_t second = (size_t)(pair.second_top + y) * stage.canvas_width + pair.second_left + x;
        levels.first[cell] = grey_at(part.image, first, k);
        levels.second[cell] = pair.second_is_reconstruction ? part.reconstruction[second] : grey_at(part.image, second, k);
    }
}

// Average 2 x 2 pixels of a level of `width` into the next, (next_height, next_width); odd last ones are dropped.
static __device__ __forceinline__ void pool(const float *level, float *next, int width, int next_height, int next_width)
{
    for (int cell = threadIdx.x; cell < next_height * next_width; cell += blockDim.x) {
        const float *corner = level + 2 * (cell / next_width) * width + 2 * (cell % next_width);
        next[cell] = ((corner[0] + corner[width]) * 0.5f + (corner[1] + corner[width + 1]) * 0.5f) * 0.5f;
    }
}

// Squared gradient magnitude by the Prewitt operator divided by 3, edges repeated, plus epsilon.
static __device__ __forceinline__ float gradient_squared(const float *level, int y, int x, int height, int width,
                                                         float epsilon)
{
    const float *above = level + clamped(y - 1, height) * width;
    const float *here = level + y * width;
    const float *below = level + clamped(y + 1, height) * width;
    const int left = clamped(x - 1, width), right = clamped(x + 1, width);
    const float across = (above[right] + here[right] + below[right]) - (above[left] + here[left] + below[left]);
    const float down = (below[left] + below[x] + below[right]) - (above[left] + above[x] + above[right]);
    return (across * across + down * down) * (1.0f / 9.0f) + epsilon;
}

// 1 - GMS of one pixel: (a - b)^2 / (a^2 + b^2 + c), which keeps its digits where the patches are alike.
static __device__ __forceinline__ float unlike_at(const float *first, const float *second, int y, int x, int height,
                                                  int width, const StageConstants &k)
{
    const float a = gradient_squared(first, y, x, height, width, k.epsilon);
    const float b = gradient_squared(second, y, x, height, width, k.epsilon);
    const float difference = sqrtf(a) - sqrtf(b);
    return difference * difference / (a + b + k.gms_c);
}

// Fill the levels above the first: pixels by pooling, and how unlike they are. Ends with all threads in step.
static __device__ __forceinline__ void build_levels(const Pair &pair, const StageConstants &k, const Levels &levels)
{
    const int first_cells = pair.height * pair.width;
    int height = pair.height, width = pair.width, start = 0;
    for (int level = 0; level < pair.levels; ++level) {
        const int next = start + height * width;
        if (level + 1 < pair.levels) {
            pool(levels.first + start, levels.first + next, width, height / 2, width / 2);
            pool(levels.second + start, levels.second + next, width, height / 2, width / 2);
        }
        if (level > 0)
            for (int cell = threadIdx.x; cell < height * width; cell += blockDim.x)
                levels.unlike[start - first_cells + cell] = unlike_at(
                    levels.first + start, levels.second + start, cell / width, cell % width, height, width, k);
        __syncthreads();  // the next round pools and compares what this one wrote
        start = next;
        height /= 2;
        width /= 2;
    }
}

// Linear interpolation between two of `count` cells that are spread over `length` pixels, centres aligned.
struct Blend {
    int low, high;
    float share;
};

static __device__ __forceinline__ Blend blend(int pixel, int length, int count)
{
    const int position = clamped((2 * pixel + 1) * count - length, 2 * length * (count - 1) + 1);  // in 1 / (2 length)
    const int low = position / (2 * length);
    return {low, low + 1 < count ? low + 1 : low, (float)(position - low * 2 * length) / (float)(2 * length)};
}

// 1 - MSGMS of one pixel: mean over the levels, each brought to the patch's size.
static __device__ __forceinline__ float mean_unlike_at(const Pair &pair, const StageConstants &k, const Levels &levels,
                                                       int y, int x)
{
    float total = unlike_at(levels.first, levels.second, y, x, pair.height, pair.width, k);
    const float *unlike = levels.unlike;
    int height = pair.height / 2, width = pair.width / 2;
    for (int level = 1; level < pair.levels; ++level) {
        const Blend down = blend(y, pair.height, height), across = blend(x, pair.width, width);
        const float *upper = unlike + down.low * width, *lower = unlike + down.high * width;
        const float top = upper[across.low] + (upper[across.high] - upper[across.low]) * across.share;
        const float bottom = lower[across.low] + (lower[across.high] - lower[across.low]) * across.share;
        total += top + (bottom - top) * down.share;
        unlike += height * width;
        height /= 2;
        width /= 2;
    }
    return total / pair.levels;
}

static __device__ __forceinline__ Spread merged(const Spread &a, const Spread &b)
{
    const float count = a.count + b.count;
    const float share = count > 0.0f ? b.count / count : 0.0f;
    const float step = b.mean - a.mean;
    return {count, a.mean + step * share, a.squares + b.squares + step * step * a.count * share};
}

// Merge the spreads of a block's threads, always in the same order; valid in thread 0. Warps' spreads go through
// `shared`, 3 floats each, over what lay there.
static __device__ __forceinline__ Spread block_spread(Spread own, float *shared)
{
    for (int distance = warp_size / 2; distance > 0; distance /= 2) {
        Spread other;
        other.count = __shfl_down_sync(whole_warp, own.count, distance);
        other.mean = __shfl_down_sync(whole_warp, own.mean, distance);
        other.squares = __shfl_down_sync(whole_warp, own.squares, distance);
        own = merged(own, other);
    }
    const int warp = threadIdx.x / warp_size, warps = blockDim.x / warp_size;
    __syncthreads();  // `shared` may hold levels, which other warps may still read
    if (threadIdx.x % warp_size == 0) {
        shared[3 * warp] = own.count;
        shared[3 * warp + 1] = own.mean;
        shared[3 * warp + 2] = own.squares;
    }
    __syncthreads();
    if (threadIdx.x == 0)
        for (int other = 1; other < warps; ++other)
            own = merged(own, {shared[3 * other], shared[3 * other + 1], shared[3 * other + 2]});
    return own;
}

// Eq. 16, or 1 - the mean of MSGMS, of one pair whose levels begin at `memory`; valid in thread 0.
static __device__ __forceinline__ float pair_distance(const Part &part, const StageTables &stage, const Pair &pair,
                                                      const StageConstants &k, float *memory, float *shared)
{
    const int cells = pair.height * pair.width;
    int all_cells = 0;
    for (int level = 0, height = pair.height, width = pair.width; level < pair.levels; ++level, height /= 2, width /= 2)
        all_cells += height * width;
    const Levels levels = {memory, memory + all_cells, memory + 2 * all_cells};
    load_patches(part, stage, pair, k, levels);
    __syncthreads();  // gradients and pools read what other threads loaded
    build_levels(pair, k, levels);
    Spread own = {0.0f, 0.0f, 0.0f};
    for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
        const float value = mean_unlike_at(pair, k, levels, cell / pair.width, cell % pair.width);
        const float step = value - own.mean;
        own.count += 1.0f;
        own.mean += step / own.count;
        own.squares += step * (value - own.mean);
    }
    const Spread all = block_spread(own, shared);
    return stage.by_deviation ? sqrtf(all.squares / all.count) : all.mean;
}

// Distances of all pairs: grid (pairs, parts), any whole number of warps up to most_threads per block.
extern "C" __global__ void __launch_bounds__(most_threads)
    patch_gmsd_distances(const unsigned char *__restrict__ part, const float *__restrict__ reconstruction,
                         const int *__restrict__ tables, const float *__restrict__ constants, float *workspace,
                         float *__restrict__ distances)
{
    SHARED_FLOATS(shared);
    const StageTables &stage = *reinterpret_cast<const StageTables *>(tables);
    const Pair pair = reinterpret_cast<const Pair *>(tables + stage.pairs_start)[blockIdx.x];
    const StageConstants k = *reinterpret_cast<const StageConstants *>(constants);
    const size_t pixels = (size_t)stage.canvas_height * stage.canvas_width;
    const Part inputs = {part + 3 * pixels * blockIdx.y, reconstruction + pixels * blockIdx.y};
    float distance;
    if (pair.workspace_at < 0) {  // two calls: in the first the compiler knows that the levels are shared memory
        distance = pair_distance(inputs, stage, pair, k, shared, shared);
    } else {
        float *own = workspace + (size_t)stage.workspace_floats * blockIdx.y + pair.workspace_at;
        distance = pair_distance(inputs, stage, pair, k, own, shared);
    }
    if (threadIdx.x == 0)
        distances[(size_t)stage.pairs * blockIdx.y + blockIdx.x] = distance;
}

// Eq. 14 for one patch of the first scale: over the scales, the sum of the covering patch's score (Eq. 15).
static __device__ __forceinline__ float summed_scales(const StageTables &stage, const int *tables,
                                                      const float *distances, const int *patches)
{
    float sum = 0.0f;
    for (int scale = 0; scale < stage.scales; ++scale) {
        if (patches[scale] < 0)
            continue;
        const int *choices = tables + stage.choices_start + (size_t)patches[scale] * stage.choices;
        float score = distances[choices[0]];
        for (int choice = 1; choice < stage.choices; ++choice)
            score = least(score, distances[choices[choice]]);
        sum += score;
    }
    return sum;
}

// Scores from distances: grid (1, parts), any whole number of warps per block; a warp takes every warps-th region.
extern "C" __global__ void __launch_bounds__(most_threads)
    patch_gmsd_scores(const float *__restrict__ distances, const float *__restrict__ feature_scores,
                      const int *__restrict__ tables, const float *__restrict__ constants, float *__restrict__ scores)
{
    SHARED_FLOATS(highest_of_warp);
    const StageTables &stage = *reinterpret_cast<const StageTables *>(tables);
    const int warp = threadIdx.x / warp_size, lane = threadIdx.x % warp_size, warps = blockDim.x / warp_size;
    const float *own_distances = distances + (size_t)stage.pairs * blockIdx.y;
    const float *features = feature_scores + (size_t)stage.regions * blockIdx.y;
    float *own_scores = scores + (size_t)(1 + stage.regions) * blockIdx.y;
    for (int region = warp; region < stage.regions; region += warps) {
        const int *sums = tables + stage.sums_start + (size_t)region * stage.most_patches * stage.scales;
        float gmsd = 0.0f;  // distances are not below 0
        for (int patch = lane; patch < stage.most_patches; patch += warp_size)
            gmsd = highest(gmsd, summed_scales(stage, tables, own_distances, sums + (size_t)patch * stage.scales));
        for (int distance = warp_size / 2; distance > 0; distance /= 2)
            gmsd = highest(gmsd, __shfl_down_sync(whole_warp, gmsd, distance));
        if (lane == 0) {
            const float weighted = constants[constants_head + region] * gmsd;
            const float score = stage.multiply ? features[region] * weighted : features[region] + weighted;
            own_scores[1 + region] = score;
            highest_of_warp[warp] = region == warp ? score : highest(highest_of_warp[warp], score);
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        float part_score = highest_of_warp[0];
        for (int other = 1; other < warps && other < stage.regions; ++other)
            part_score = highest(part_score, highest_of_warp[other]);
        own_scores[0] = part_score;
    }
}

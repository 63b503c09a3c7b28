// Runs launches that a file lists, over buffers from files, so that a sanitizer sees a whole program; see
// test_sanitizers.py. Lines: "buffer NAME BYTES FILE" and "launch KERNEL GX GY GZ BX BY BZ SHARED_BYTES BUFFERS...";
// writes the buffer `scores` to the file that the second argument names.
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

extern "C" int host_launch(const char *name, const unsigned *grid, const unsigned *block, size_t shared_bytes,
                           void **arguments, unsigned argument_count, int order, unsigned seed);
extern "C" const char *host_error();

int main(int, char **argv)
{
    std::map<std::string, std::vector<char>> buffers;
    std::ifstream list(argv[1]);
    for (std::string line; std::getline(list, line);) {
        std::istringstream words(line);
        std::string what, name;
        words >> what >> name;
        if (what == "buffer") {
            size_t bytes;
            std::string file;
            words >> bytes >> file;
            std::vector<char> content(bytes);  // exactly as large as said: a byte beyond is reported
            std::ifstream(file, std::ios::binary).read(content.data(), bytes);
            buffers[name] = std::move(content);
            continue;
        }
        unsigned grid[3], block[3];
        size_t shared_bytes;
        words >> grid[0] >> grid[1] >> grid[2] >> block[0] >> block[1] >> block[2] >> shared_bytes;
        std::vector<void *> pointers, arguments;
        for (std::string buffer; words >> buffer;)
            pointers.push_back(buffers.at(buffer).data());
        for (void *&pointer : pointers)
            arguments.push_back(&pointer);
        if (host_launch(name.c_str(), grid, block, shared_bytes, arguments.data(), arguments.size(), 0, 0) != 0) {
            std::cerr << host_error() << "\n";
            return 2;
        }
    }
    const std::vector<char> &scores = buffers.at("scores");
    std::ofstream(argv[2], std::ios::binary).write(scores.data(), scores.size());
}

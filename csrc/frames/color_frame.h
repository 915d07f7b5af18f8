// A frame as three planes, red, green and blue: the form in which colors are changed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace vidseg {

struct FrameSize {
    int height, width;
    std::size_t pixels() const { return static_cast<std::size_t>(height) * width; }
};

class ColorFrame {
  public:
    void resize(FrameSize size);
    const FrameSize& size() const { return size_; }
    uint8_t* plane(int channel) { return planes_.data() + size_.pixels() * channel; }
    const uint8_t* plane(int channel) const { return planes_.data() + size_.pixels() * channel; }

    // From and to pixels of R, G, B and an unused byte each.
    void split(const uint32_t* pixels);
    void join(uint32_t* pixels) const;
    // From and to tightly packed pixels of R, G and B.
    void split_rgb(const uint8_t* rgb);
    void join_rgb(uint8_t* rgb) const;

  private:
    FrameSize size_{0, 0};
    std::vector<uint8_t> planes_;
};

}  // namespace vidseg

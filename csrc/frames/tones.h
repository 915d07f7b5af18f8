// Operations on pixels alone, each `pixels` RGB triples in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace vidseg {

// `tables`: (3, 256), one for each color.
void look_up(const uint8_t* tables, uint8_t* rgb, std::size_t pixels);

// Hue in steps of 1/255 of the circle (imgaug's unit, cut to OpenCV's steps of 2 degrees), saturation in
// steps of 1/255.
void shift_hue_saturation(int hue, int saturation, uint8_t* rgb, std::size_t pixels);

// Whole numbers from the normal distribution with this standard deviation, -255 to 255; number `field` of the
// fields.
std::vector<int16_t> noise_field(double scale, uint64_t field, std::size_t samples);

// `field`: one value for each pixel, or, with `per_channel`, for each sample.
void add_field(const int16_t* field, bool per_channel, uint8_t* rgb, std::size_t pixels);

// As PIL.ImageEnhance.Color.
void enhance_color(float factor, uint8_t* rgb, std::size_t pixels);

// As torchvision's adjust_contrast, adjust_saturation and adjust_hue on uint8 tensors.
void scale_contrast(double factor, uint8_t* rgb, std::size_t pixels);
void scale_saturation(double factor, uint8_t* rgb, std::size_t pixels);
void shift_hue(float part, uint8_t* rgb, std::size_t pixels);

// As OpenCV's conversion to gray.
void make_gray(uint8_t* rgb, std::size_t pixels);

}  // namespace vidseg

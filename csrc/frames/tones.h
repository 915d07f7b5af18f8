// Kernels of color operations that change each pixel by itself: `pixels` RGB triples, in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace vidseg {

// `tables`: (3, 256), one per channel.
void look_up(const uint8_t* tables, uint8_t* rgb, std::size_t pixels);

// Hue in steps of 1/255 of the circle (imgaug's unit), truncated to OpenCV's steps of 2 degrees; saturation
// in steps of 1/255.
void shift_hue_saturation(int hue, int saturation, uint8_t* rgb, std::size_t pixels);

// Returns whole numbers of -255 to 255 from the normal distribution with this standard deviation. The numbers
// are a function of `field` and the position.
std::vector<int16_t> noise_field(double scale, uint64_t field, std::size_t samples);

// `field`: one value per pixel or, with `per_channel`, per sample.
void add_field(const int16_t* field, bool per_channel, uint8_t* rgb, std::size_t pixels);

// As PIL.ImageEnhance.Color.
void enhance_color(float factor, uint8_t* rgb, std::size_t pixels);

// As torchvision's adjust_contrast, adjust_saturation and adjust_hue on uint8 tensors.
void scale_contrast(double factor, uint8_t* rgb, std::size_t pixels);
void scale_saturation(double factor, uint8_t* rgb, std::size_t pixels);
void shift_hue(float part, uint8_t* rgb, std::size_t pixels);

// As PIL.ImageOps.autocontrast and equalize: each channel by its own histogram.
void stretch_contrast(double cutoff, uint8_t* rgb, std::size_t pixels);
void equalize_tones(uint8_t* rgb, std::size_t pixels);

// As OpenCV's conversion to gray.
void make_gray(uint8_t* rgb, std::size_t pixels);

}  // namespace vidseg

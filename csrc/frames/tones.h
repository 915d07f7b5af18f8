// Kernels of color operations that change each pixel by itself, in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "color_frame.h"

namespace vidseg {

// `tables`: (3, 256), one per channel.
void look_up(const uint8_t* tables, ColorFrame& frame);

// Hue in steps of 1/255 of the circle (imgaug's unit), truncated to OpenCV's steps of 2 degrees; saturation
// in steps of 1/255.
void shift_hue_saturation(int hue, int saturation, ColorFrame& frame);

// Returns whole numbers of -255 to 255 from the normal distribution with this standard deviation. The numbers
// are a function of `field` and the position.
std::vector<int16_t> noise_field(double scale, uint64_t field, std::size_t samples);

// `field`: one value for each pixel, or for each sample of the planes.
void add_field(const std::vector<int16_t>& field, ColorFrame& frame);

// As PIL.ImageEnhance.Color.
void enhance_color(float factor, ColorFrame& frame);

// As torchvision's adjust_contrast, adjust_saturation and adjust_hue on uint8 tensors.
void scale_contrast(double factor, ColorFrame& frame);
void scale_saturation(double factor, ColorFrame& frame);
void shift_hue(float part, ColorFrame& frame);

// As PIL.ImageOps.autocontrast and equalize: each channel by its own histogram.
void stretch_contrast(double cutoff, ColorFrame& frame);
void equalize_tones(ColorFrame& frame);

// As OpenCV's conversion to gray.
void make_gray(ColorFrame& frame);

}  // namespace vidseg

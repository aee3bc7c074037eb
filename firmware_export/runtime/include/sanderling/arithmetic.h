/* Rounding, and exp and a reciprocal on fixed-point numbers. docs/arithmetic.md, "Rounding". */
#ifndef SANDERLING_ARITHMETIC_H
#define SANDERLING_ARITHMETIC_H

#include "sanderling/base.h"
#include "sanderling/network.h"

/* x * multiplier * 2^(shift - 31), rounded twice; a left shift wraps around. */
int32_t sl_rescale(int32_t x, sl_scale scale);

/* a * b / 2^31 to the nearest integer, halves up; not for a = b = -2^31. */
int32_t sl_mul(int32_t a, int32_t b);

/* v / 2^exponent to the nearest integer, halves away from zero; exponent 0..62. */
int32_t sl_halve(int32_t v, uint32_t exponent);

/* exp(x) in Q0 of x <= 0 in Q5. */
int32_t sl_exp(int32_t x);

/* 1 / (1 + a) in Q0 of a in Q0 from 0 to 1. */
int32_t sl_reciprocal(int32_t a);

#endif

// The one-dimensional transforms of Winograd's minimal filtering F(m, 3): with n = m + 2,
//   m outputs of a 3-tap filter g over n inputs d  =  A^T [(G g) * (B^T d)],  * elementwise,
// so n multiplications stand for 3 m. Applied along both axes, F(m x m, 3 x 3) takes n^2 for 9 m^2: a
// quarter for m = 4, 1/2.25 for m = 2, 1/5.06 for m = 6 (Lavin & Gray 2016, arXiv:1509.09308). G g is the
// product with the polynomial g evaluated at n - 1 points and at infinity (Toom-Cook); the points decide the
// rounding error. Vec may hold float or double; coefficients that are not dyadic occur in G alone, which is
// applied in double.

// Points 0, +-1, infinity. Its weights take 16/9 of the kernel's bytes, those of F(4 x 4, 3 x 3) 4 times as
// many.
struct Winograd2 {
  static constexpr int kOutputs = 2, kPoints = 4;
  static constexpr float kScale = 1.0f;

  template <class Vec>
  static DENOISE_EXT_INLINE void input(const Vec* d, Vec* o) {
    o[0] = d[0] - d[2];
    o[1] = d[1] + d[2];
    o[2] = d[2] - d[1];
    o[3] = d[3] - d[1];
  }

  template <class Vec>
  static DENOISE_EXT_INLINE void filter(const Vec* g, Vec* u) {
    const Vec even = 0.5 * (g[0] + g[2]), odd = 0.5 * g[1];
    u[0] = g[0];
    u[1] = even + odd;
    u[2] = even - odd;
    u[3] = g[2];
  }

  template <class Vec>
  static DENOISE_EXT_INLINE void output(const Vec* m, Vec* o) {
    o[0] = m[0] + (m[1] + m[2]);
    o[1] = (m[1] - m[2]) + m[3];
  }
};

// Points 0, +-a, +-2a, infinity with a = 3/4: the matrices of Lavin & Gray (a = 1) with the variable
// scaled by a. Large points make large entries in B and A, which cancel again: at a = 1 the error is
// 2.3 times that at 3/4.
struct Winograd4 {
  static constexpr int kOutputs = 4, kPoints = 6;
  static constexpr double a = 0.75;

  // Output i of output() is to be multiplied by kScale^i; both axes' factors are one product.
  static constexpr float kScale = 0.75f;

  // o = B^T d
  template <class Vec>
  static DENOISE_EXT_INLINE void input(const Vec* d, Vec* o) {
    constexpr float a1 = a, b1 = 2 * a, a2 = a * a, b2 = 4 * a * a;
    o[0] = a2 * b2 * d[0] + (d[4] - (a2 + b2) * d[2]);
    const Vec even_a = d[4] - b2 * d[2], odd_a = d[3] - b2 * d[1];
    o[1] = even_a + a1 * odd_a;
    o[2] = even_a - a1 * odd_a;
    const Vec even_b = d[4] - a2 * d[2], odd_b = d[3] - a2 * d[1];
    o[3] = even_b + b1 * odd_b;
    o[4] = even_b - b1 * odd_b;
    o[5] = a2 * b2 * d[1] + (d[5] - (a2 + b2) * d[3]);
  }

  // u = G g, the row of infinity divided by a^3, which kScale^3 multiplies back.
  template <class Vec>
  static DENOISE_EXT_INLINE void filter(const Vec* g, Vec* u) {
    constexpr double a2 = a * a, b2 = 4 * a2;
    u[0] = g[0] * (1 / (a2 * b2));
    const Vec even_a = (g[0] + a2 * g[2]) * (0.5 / (a2 * (a2 - b2))), odd_a = g[1] * (0.5 / (a * (a2 - b2)));
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    const Vec even_b = (g[0] + b2 * g[2]) * (0.5 / (b2 * (b2 - a2))), odd_b = g[1] * (0.25 / (a * (b2 - a2)));
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = g[2] * (1 / (a2 * a));
  }

  // o = A^T m, up to kScale^i
  template <class Vec>
  static DENOISE_EXT_INLINE void output(const Vec* m, Vec* o) {
    const Vec sum_a = m[1] + m[2], difference_a = m[1] - m[2];
    const Vec sum_b = m[3] + m[4], difference_b = m[3] - m[4];
    o[0] = (m[0] + sum_a) + sum_b;
    o[1] = difference_a + 2.0f * difference_b;
    o[2] = sum_a + 4.0f * sum_b;
    o[3] = (difference_a + 8.0f * difference_b) + m[5];
  }
};

// Points 0, +-1, +-2, +-1/2, infinity.
struct Winograd6 {
  static constexpr int kOutputs = 6, kPoints = 8;
  static constexpr float kScale = 1.0f;

  template <class Vec>
  static DENOISE_EXT_INLINE void input(const Vec* d, Vec* o) {
    o[0] = 5.25f * (d[4] - d[2]) + (d[0] - d[6]);
    const Vec even_1 = (d[2] + d[6]) - 4.25f * d[4], odd_1 = (d[1] + d[5]) - 4.25f * d[3];
    o[1] = even_1 + odd_1;
    o[2] = even_1 - odd_1;
    const Vec even_2 = 0.25f * d[2] + (d[6] - 1.25f * d[4]);
    const Vec odd_2 = 0.5f * d[1] + (2.0f * d[5] - 2.5f * d[3]);
    o[3] = even_2 + odd_2;
    o[4] = even_2 - odd_2;
    const Vec even_half = 4.0f * d[2] + (d[6] - 5.0f * d[4]);
    const Vec odd_half = 2.0f * d[1] + (0.5f * d[5] - 2.5f * d[3]);
    o[5] = even_half + odd_half;
    o[6] = even_half - odd_half;
    o[7] = 5.25f * (d[3] - d[5]) + (d[7] - d[1]);
  }

  template <class Vec>
  static DENOISE_EXT_INLINE void filter(const Vec* g, Vec* u) {
    u[0] = g[0];
    const Vec even_1 = (g[0] + g[2]) * (-2.0 / 9), odd_1 = g[1] * (-2.0 / 9);
    u[1] = even_1 + odd_1;
    u[2] = even_1 - odd_1;
    const Vec even_2 = (g[0] + 4.0 * g[2]) * (1.0 / 90), odd_2 = g[1] * (1.0 / 45);
    u[3] = even_2 + odd_2;
    u[4] = even_2 - odd_2;
    const Vec even_half = (4.0 * g[0] + g[2]) * (1.0 / 180), odd_half = g[1] * (1.0 / 90);
    u[5] = even_half + odd_half;
    u[6] = even_half - odd_half;
    u[7] = g[2];
  }

  template <class Vec>
  static DENOISE_EXT_INLINE void output(const Vec* m, Vec* o) {
    const Vec sum_1 = m[1] + m[2], difference_1 = m[1] - m[2];
    const Vec sum_2 = m[3] + m[4], difference_2 = m[3] - m[4];
    const Vec sum_half = m[5] + m[6], difference_half = m[5] - m[6];
    o[0] = (m[0] + sum_1) + (sum_2 + 32.0f * sum_half);
    o[1] = difference_1 + (2.0f * difference_2 + 16.0f * difference_half);
    o[2] = sum_1 + (4.0f * sum_2 + 8.0f * sum_half);
    o[3] = difference_1 + (8.0f * difference_2 + 4.0f * difference_half);
    o[4] = sum_1 + (16.0f * sum_2 + 2.0f * sum_half);
    o[5] = (m[7] + difference_1) + (32.0f * difference_2 + difference_half);
  }
};

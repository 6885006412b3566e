// Multiplies two matrices of whole numbers in doubles: exact, so that the sum is the same everywhere.
#include "timed.h"

enum { N = 192 };

static double a[N][N], b[N][N], c[N][N];

static void prepare(void) {
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = next_random() % 100;
            b[i][j] = next_random() % 100;
        }
}

static uint64_t work(void) {
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++)
            c[i][j] = 0;
        for (int k = 0; k < N; k++)
            for (int j = 0; j < N; j++)
                c[i][j] += a[i][k] * b[k][j];
    }
    uint64_t sum = 0;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            sum = sum * 3 + (uint64_t)c[i][j];
    return sum;
}

int main(int argc, char **argv) { return timed(prepare, work, argc, argv); }

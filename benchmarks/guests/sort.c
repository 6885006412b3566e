// Sorts random numbers in place by quicksort, and short stretches by insertion.
#include <string.h>

#include "timed.h"

enum { COUNT = 200000, SHORT = 16 };

static uint32_t unsorted[COUNT], numbers[COUNT];

static void prepare(void) {
    for (int i = 0; i < COUNT; i++)
        unsorted[i] = next_random();
}

static void insertion(uint32_t *a, int count) {
    for (int i = 1; i < count; i++) {
        uint32_t value = a[i];
        int at = i;
        for (; at > 0 && a[at - 1] > value; at--)
            a[at] = a[at - 1];
        a[at] = value;
    }
}

static void quicksort(uint32_t *a, int count) {
    while (count > SHORT) {
        uint32_t pivot = a[count / 2];
        int left = 0, right = count - 1;
        while (left <= right) {
            while (a[left] < pivot)
                left++;
            while (a[right] > pivot)
                right--;
            if (left <= right) {
                uint32_t swapped = a[left];
                a[left++] = a[right];
                a[right--] = swapped;
            }
        }
        quicksort(a, right + 1);
        a += left;
        count -= left;
    }
    insertion(a, count);
}

static uint64_t work(void) {
    memcpy(numbers, unsorted, sizeof numbers);
    quicksort(numbers, COUNT);
    uint64_t sum = 0;
    for (int i = 0; i < COUNT; i += 997) {
        if (i && numbers[i] < numbers[i - 1])
            abort();
        sum = mix(sum, numbers[i]);
    }
    return sum;
}

int main(int argc, char **argv) { return timed(prepare, work, argc, argv); }

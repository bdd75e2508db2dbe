/* CHECK: what the C tests are made of. A test program says nothing and returns 0 when all is well. */
#ifndef CELLRT_TESTS_CHECK_H
#define CELLRT_TESTS_CHECK_H

#include <stdio.h>

static int n_failed = 0;

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #condition);  \
            ++n_failed;                                                               \
        }                                                                             \
    } while (0)

#endif


/*
 * Owns the memory that an input is worked on with, in place of malloc(),
 * whose book-keeping takes most of the time under AddressSanitizer.  A ring:
 * what was freed is not used again before all else has been.  What is free is
 * poisoned, and so is what stands between two pieces, from the byte behind
 * their ends.  What an input leaves behind is a leak, and found at once.
 *
 * The rest of the code is compiled with other names for malloc() and free().
 */


#include <sanitizer/asan_interface.h>

#include "fuzz.h"


#define FUZZ_MEMORY_RING     (1024 * 1024)
#define FUZZ_MEMORY_LARGE    8192        /* more than that is malloc()'s */
#define FUZZ_MEMORY_BETWEEN  32
#define FUZZ_MEMORY_ALIGN    16
#define FUZZ_MEMORY_FILL     0xbe        /* what malloc() fills with there */


/* in front of a piece, and poisoned with what stands between */

typedef struct {
    size_t    size;
    u_char   *piece;                     /* NULL: it was freed */
} fuzz_memory_t;


/* reads and writes what is poisoned for all others */
#define fuzz_memory_own  __attribute__((no_sanitize("address")))


static ngx_uint_t fuzz_memory_in_ring(u_char *p);


static u_char      fuzz_memory_ring[FUZZ_MEMORY_RING]
                       __attribute__((aligned(FUZZ_MEMORY_ALIGN)));
static size_t      fuzz_memory_pos;
static size_t      fuzz_memory_taken;    /* by this input */
static ngx_int_t   fuzz_memory_pieces;   /* that it has */
static ngx_uint_t  fuzz_memory_on;


void
fuzz_memory_start(void)
{
    if (!fuzz_memory_on) {
        fuzz_memory_on = 1;
        ASAN_POISON_MEMORY_REGION(fuzz_memory_ring, FUZZ_MEMORY_RING);
    }

    fuzz_memory_taken = 0;
    fuzz_memory_pieces = 0;
}


void
fuzz_memory_done(void)
{
    fuzz_assert(fuzz_memory_pieces == 0, "memory that was not given back");
}


fuzz_memory_own void *
fuzz_malloc(size_t size)
{
    size_t          n;
    u_char         *p;
    fuzz_memory_t  *m;

    if (!fuzz_memory_on) {
        return malloc(size);
    }

    fuzz_memory_pieces++;

    n = FUZZ_MEMORY_BETWEEN + ngx_align(size, FUZZ_MEMORY_ALIGN);

    if (size > FUZZ_MEMORY_LARGE || fuzz_memory_taken + n
                                    > FUZZ_MEMORY_RING / 2)
    {
        return malloc(size);
    }

    if (fuzz_memory_pos + n > FUZZ_MEMORY_RING) {
        fuzz_memory_taken += FUZZ_MEMORY_RING - fuzz_memory_pos;
        fuzz_memory_pos = 0;
    }

    p = fuzz_memory_ring + fuzz_memory_pos + FUZZ_MEMORY_BETWEEN;

    fuzz_memory_pos += n;
    fuzz_memory_taken += n;

    m = (fuzz_memory_t *) p - 1;
    m->size = size;
    m->piece = p;

    ASAN_UNPOISON_MEMORY_REGION(p, size);
    ngx_memset(p, FUZZ_MEMORY_FILL, size);

    return p;
}


fuzz_memory_own void
fuzz_free(void *p)
{
    fuzz_memory_t  *m;

    if (p == NULL) {
        return;
    }

    fuzz_memory_pieces--;

    if (!fuzz_memory_in_ring(p)) {
        free(p);
        return;
    }

    m = (fuzz_memory_t *) p - 1;

    fuzz_assert(m->piece == p, "freed twice, or what was never allocated");

    m->piece = NULL;
    ASAN_POISON_MEMORY_REGION(p, m->size);
}


int
fuzz_memalign(void **p, size_t alignment, size_t size)
{
    if (!fuzz_memory_on) {
        return posix_memalign(p, alignment, size);
    }

    fuzz_assert(alignment <= FUZZ_MEMORY_ALIGN, "another alignment");

    *p = fuzz_malloc(size);

    return *p ? 0 : NGX_ENOMEM;
}


static ngx_uint_t
fuzz_memory_in_ring(u_char *p)
{
    return p >= fuzz_memory_ring && p < fuzz_memory_ring + FUZZ_MEMORY_RING;
}

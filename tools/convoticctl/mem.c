
/*
 * Owns the end of a run that gets no memory: a run is one short command, and
 * what it wrote to Redis is whole at any moment.  What is allocated here is
 * the caller's, to free() or to clean first.  Called by all.
 */


#include <stdlib.h>
#include <string.h>

#include "mem.h"
#include "output.h"
#include "rc.h"


#define MEM_FIRST  64           /* elements of an array's first allocation */


void
mem_exhausted(void)
{
    output_say("out of memory");
    exit(RC_FAILED);
}


void *
mem_realloc(void *p, size_t size)
{
    p = realloc(p, size);

    if (p == NULL) {
        mem_exhausted();
    }

    return p;
}


char *
mem_copy(const char *data, size_t len)
{
    char  *p;

    p = mem_realloc(NULL, len + 1);
    memcpy(p, data, len);
    p[len] = '\0';

    return p;
}


void *
mem_grow(void *elts, size_t nelts, size_t *nalloc, size_t size)
{
    if (nelts < *nalloc) {
        return elts;
    }

    *nalloc = *nalloc * 2 + MEM_FIRST;

    return mem_realloc(elts, *nalloc * size);
}

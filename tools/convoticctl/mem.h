
/*
 * Memory that is there: where there is none, the run ends with a sentence.
 */


#ifndef _CTL_MEM_H_INCLUDED_
#define _CTL_MEM_H_INCLUDED_


#include <stddef.h>


/* never NULL */
void *mem_realloc(void *p, size_t size);

/* len bytes and a NUL behind them */
char *mem_copy(const char *data, size_t len);

/*
 * elts, moved if need be, with room for one more than nelts, each of size
 * bytes; *nalloc is how many fit
 */
void *mem_grow(void *elts, size_t nelts, size_t *nalloc, size_t size);

/* says so and exits */
void mem_exhausted(void) __attribute__((noreturn));


#endif /* _CTL_MEM_H_INCLUDED_ */

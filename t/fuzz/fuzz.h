
/*
 * What the fuzz targets share: an assertion, the parts of an input, and an
 * nginx that is just large enough for the module's code.
 */


#ifndef _FUZZ_H_INCLUDED_
#define _FUZZ_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


/* a broken invariant ends the process, as a crash does; text says which */
#define fuzz_assert(true, text)                                               \
    do {                                                                      \
        if (!(true)) {                                                        \
            fuzz_fail(__FILE__, __LINE__, text);                              \
        }                                                                     \
    } while (0)


/* an input, of which parts have been taken from the front */

typedef struct {
    u_char    *pos;
    u_char    *last;
} fuzz_input_t;


/* 2026-03-30T14:22:05.123Z, when all of this happens */
#define FUZZ_NOW       1774880525
#define FUZZ_NOW_MSEC  123


extern ngx_log_t  fuzz_log;


/* by each target; with a pool that ends after it */
void fuzz_one(ngx_pool_t *pool, fuzz_input_t *in);

/* of each target, once; what it makes stays */
void fuzz_init(ngx_pool_t *pool);

void fuzz_fail(const char *file, int line, const char *text)
    __attribute__((noreturn));

/* 0 where the input has ended */
u_char fuzz_byte(fuzz_input_t *in);

/*
 * What stands in front of the next byte of this kind, which is taken too, or
 * all that is left.  A copy, so that reading beyond its end is noticed.
 */
ngx_str_t fuzz_until(ngx_pool_t *pool, fuzz_input_t *in, u_char end);
ngx_str_t fuzz_copy(ngx_pool_t *pool, u_char *data, size_t len);

/* decimal digits at the front, at most max; 0 if there are none */
uint64_t fuzz_number(fuzz_input_t *in, uint64_t max);

/* what malloc() and so on are called where an input is worked on */
void *fuzz_malloc(size_t size);
void fuzz_free(void *p);
int fuzz_memalign(void **p, size_t alignment, size_t size);

/* before and after an input; what it has left is a broken invariant */
void fuzz_memory_start(void);
void fuzz_memory_done(void);

ngx_uint_t fuzz_equal(ngx_str_t *a, ngx_str_t *b);
ngx_uint_t fuzz_is(ngx_str_t *a, const char *text);
ngx_uint_t fuzz_begins(ngx_str_t *a, const char *text);
ngx_uint_t fuzz_digits(ngx_str_t *a);

/* RFC 3629 */
ngx_uint_t fuzz_utf8(ngx_str_t *a);

/* with the module's configuration and this context, and nothing else */
ngx_http_request_t *fuzz_request(ngx_pool_t *pool, void *main_conf,
    void *loc_conf);


#endif /* _FUZZ_H_INCLUDED_ */

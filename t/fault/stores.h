
/*
 * Workers that die at a given store, for tests: the compiler's -include puts
 * this in front of every file of the module in the build of t/run --kill, and
 * in no other.  There -fsanitize=thread puts a call in front of each load and
 * each store, which stores.c answers instead of the sanitizer's own library.
 * The compiler knows nothing of what a library or nginx itself does: copies
 * and the mutex are given calls here.
 */


#ifndef _NGX_CONVOTIC_STORES_H_INCLUDED_
#define _NGX_CONVOTIC_STORES_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_event_connect.h>
#include <ngx_http.h>

/* read before their functions' names become macros */

#include <hiredis/hiredis.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <zlib.h>


/* what lies from start to end is shared; lock: the word of its mutex */
void ngx_convotic_stores_zone(void *start, void *end, ngx_atomic_t *lock);

/* the mutex was taken, or is about to be given back */
void ngx_convotic_stores_locked(void);

void *ngx_convotic_stores_copy(void *dst, const void *src, size_t n);
void *ngx_convotic_stores_move(void *dst, const void *src, size_t n);
void *ngx_convotic_stores_set(void *dst, int c, size_t n);


/* inside its own expansion a macro's name is that of the function */

#define memcpy(dst, src, n)   ngx_convotic_stores_copy(dst, src, n)
#define memmove(dst, src, n)  ngx_convotic_stores_move(dst, src, n)
#define memset(dst, c, n)     ngx_convotic_stores_set(dst, c, n)

#define NGX_CONVOTIC_STORES_POOL(pool)                                        \
    ngx_convotic_stores_zone((pool), (pool)->end, &(pool)->lock.lock)

#define ngx_slab_alloc(pool, size)                                            \
    (NGX_CONVOTIC_STORES_POOL(pool), ngx_slab_alloc(pool, size))
#define ngx_slab_calloc(pool, size)                                           \
    (NGX_CONVOTIC_STORES_POOL(pool), ngx_slab_calloc(pool, size))

#define ngx_shmtx_lock(mutex)                                                 \
    (ngx_shmtx_lock(mutex), ngx_convotic_stores_locked())
#define ngx_shmtx_trylock(mutex)                                              \
    (ngx_shmtx_trylock(mutex) ? (ngx_convotic_stores_locked(), 1) : 0)
#define ngx_shmtx_unlock(mutex)                                               \
    (ngx_convotic_stores_locked(), ngx_shmtx_unlock(mutex))


#endif /* _NGX_CONVOTIC_STORES_H_INCLUDED_ */

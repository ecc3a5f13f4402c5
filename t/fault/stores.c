
/*
 * Which store to shared memory a worker dies at: in front of it, or behind it.
 * Stands in for the library of -fsanitize=thread, whose calls say where a store
 * is about to be made; nothing else of that library is here.
 *
 * CONVOTIC_FAULT names a file of some pages, which nginx's processes share with
 * the test: the test writes the order, reads what was reached.  What is counted
 * are points: each store and each atomic change in the zone, a copy into it
 * twice, at its beginning and halfway, and the mutex, when it has been taken
 * and before it is given back.  They come in the order in which the source has
 * them, for no compiler moves a store across a call.
 */


#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>


#define STORES_SITES   1024      /* a power of two */
#define STORES_WORKER  3         /* as NGX_PROCESS_WORKER */


typedef enum {
    STORES_COUNT = 0,
    STORES_BEFORE,      /* the first to reach "at" dies in front of it */
    STORES_BEHIND       /* ... once the store is made, and nothing else */
} stores_order_e;


/* where the source makes a store */

typedef struct {
    uint64_t  address;      /* in the binary; 0: none */
    uint32_t  reached;
    uint32_t  locked;       /* of these, with the mutex */
    uint32_t  before;       /* died there */
    uint32_t  behind;
} stores_site_t;


/* little-endian numbers for the test, see t/fault/kills.t */

typedef struct {
    uint32_t       order;
    uint32_t       at;          /* 1 is the first */
    uint32_t       spare;       /* a process that is not counted */
    uint32_t       size;        /* of the zone of those who are; 0: any */
    uint32_t       points;      /* reached since then */
    uint32_t       chosen;      /* who is to die; 0: nobody yet */
    uint32_t       killed;      /* it has */
    uint32_t       held;        /* with the mutex: 1 */
    uint64_t       site;        /* the only one that counts; 0: any */
    uint64_t       died;        /* the one at which it has died */
    uint64_t       time;        /* then, ns of the monotonic clock */
    stores_site_t  sites[STORES_SITES];
} stores_shared_t;


/* nginx's; weak for what its configure links */

extern int                 ngx_pid __attribute__((weak));
extern unsigned long       ngx_process __attribute__((weak));

extern char                __executable_start;

static stores_shared_t    *stores;

static char               *zone_start, *zone_end;
static volatile uint64_t  *zone_lock;

/* the store at which this process is to die is under way */
static stores_site_t      *dying;


__attribute__((constructor)) static void
stores_init(void)
{
    int          fd;
    const char  *name;

    name = getenv("CONVOTIC_FAULT");
    if (name == NULL || *name == '\0') {
        return;
    }

    fd = open(name, O_RDWR);

    if (fd == -1 || ftruncate(fd, sizeof(stores_shared_t)) == -1) {
        perror(name);
        _exit(2);
    }

    stores = mmap(NULL, sizeof(stores_shared_t), PROT_READ|PROT_WRITE,
                  MAP_SHARED, fd, 0);

    if (stores == MAP_FAILED) {
        perror(name);
        _exit(2);
    }

    (void) close(fd);
}


static int
stores_held(void)
{
    return *zone_lock == (uint64_t) ngx_pid;
}


static void
stores_die(stores_site_t *site)
{
    struct timespec  now;

    (void) clock_gettime(CLOCK_MONOTONIC, &now);

    stores->time = now.tv_sec * 1000000000ULL + now.tv_nsec;
    stores->died = site->address;
    stores->held = stores_held();

    __sync_synchronize();

    stores->killed = ngx_pid;

    (void) kill(getpid(), SIGKILL);

    for ( ;; ) {
        (void) pause();
    }
}


static stores_site_t *
stores_site(uint64_t address)
{
    uint32_t        i, n;
    uint64_t        other;
    stores_site_t  *site;

    n = address * 2654435761u;

    for (i = 0; i < STORES_SITES; i++) {

        site = &stores->sites[(n + i) & (STORES_SITES - 1)];

        other = __sync_val_compare_and_swap(&site->address, 0, address);

        if (other == 0 || other == address) {
            return site;
        }
    }

    fprintf(stderr, "stores.c: too many sites, raise STORES_SITES\n");
    abort();
}


static void
stores_point(char *caller)
{
    uint32_t        n;
    stores_site_t  *site;

    site = stores_site(caller - &__executable_start);

    (void) __sync_fetch_and_add(&site->reached, 1);

    if (stores_held()) {
        (void) __sync_fetch_and_add(&site->locked, 1);
    }

    if (stores->site && stores->site != site->address) {
        return;
    }

    n = __sync_add_and_fetch(&stores->points, 1);

    if (stores->order == STORES_COUNT || n < stores->at
        || !__sync_bool_compare_and_swap(&stores->chosen, 0, ngx_pid))
    {
        return;
    }

    if (stores->order == STORES_BEHIND) {
        (void) __sync_fetch_and_add(&site->behind, 1);
        dying = site;
        return;
    }

    (void) __sync_fetch_and_add(&site->before, 1);
    stores_die(site);
}


/* the next thing that this process does */

static void
stores_next(void)
{
    if (dying) {
        stores_die(dying);
    }
}


static int
stores_counted(void *p)
{
    return stores && (char *) p >= zone_start && (char *) p < zone_end
           && ngx_process == STORES_WORKER
           && stores->spare != (uint32_t) ngx_pid
           && (stores->size == 0
               || stores->size == (uint32_t) (zone_end - zone_start));
}


static void
stores_write(void *p, char *caller)
{
    stores_next();

    if (stores_counted(p)) {
        stores_point(caller);
    }
}


#define stores_caller()  ((char *) __builtin_return_address(0))


/* what stores.h calls */

void ngx_convotic_stores_zone(void *start, void *end, uint64_t *lock);
void ngx_convotic_stores_locked(void);
void *ngx_convotic_stores_copy(void *dst, const void *src, size_t n);
void *ngx_convotic_stores_move(void *dst, const void *src, size_t n);
void *ngx_convotic_stores_set(void *dst, int c, size_t n);


void
ngx_convotic_stores_zone(void *start, void *end, uint64_t *lock)
{
    zone_start = start;
    zone_end = end;
    zone_lock = lock;
}


void
ngx_convotic_stores_locked(void)
{
    stores_write(zone_start, stores_caller());
}


void *
ngx_convotic_stores_copy(void *dst, const void *src, size_t n)
{
    stores_write(dst, stores_caller());

    if (!stores_counted(dst)) {
        return memcpy(dst, src, n);
    }

    (void) memcpy(dst, src, n / 2);
    stores_write(dst, stores_caller());
    (void) memcpy((char *) dst + n / 2, (const char *) src + n / 2,
                  n - n / 2);
    stores_next();

    return dst;
}


void *
ngx_convotic_stores_move(void *dst, const void *src, size_t n)
{
    stores_write(dst, stores_caller());

    return memmove(dst, src, n);
}


void *
ngx_convotic_stores_set(void *dst, int c, size_t n)
{
    stores_write(dst, stores_caller());

    if (!stores_counted(dst)) {
        return memset(dst, c, n);
    }

    (void) memset(dst, c, n / 2);
    stores_write(dst, stores_caller());
    (void) memset((char *) dst + n / 2, c, n - n / 2);
    stores_next();

    return dst;
}


/* what -fsanitize=thread calls, as gcc declares it */

void __tsan_init(void);
void __tsan_func_entry(void *caller);
void __tsan_func_exit(void);
void __tsan_read_range(void *p, size_t n);
void __tsan_write_range(void *p, size_t n);
void __tsan_atomic_thread_fence(int order);


#define STORES_PLAIN(name)                                                    \
                                                                              \
    void __tsan_read##name(void *p);                                          \
    void __tsan_write##name(void *p);                                         \
    void __tsan_unaligned_read##name(void *p);                                \
    void __tsan_unaligned_write##name(void *p);                               \
                                                                              \
    void                                                                      \
    __tsan_read##name(__attribute__((unused)) void *p)                        \
    {                                                                         \
        stores_next();                                                        \
    }                                                                         \
                                                                              \
    void                                                                      \
    __tsan_write##name(void *p)                                               \
    {                                                                         \
        stores_write(p, stores_caller());                                     \
    }                                                                         \
                                                                              \
    void                                                                      \
    __tsan_unaligned_read##name(__attribute__((unused)) void *p)              \
    {                                                                         \
        stores_next();                                                        \
    }                                                                         \
                                                                              \
    void                                                                      \
    __tsan_unaligned_write##name(void *p)                                     \
    {                                                                         \
        stores_write(p, stores_caller());                                     \
    }


STORES_PLAIN(1)
STORES_PLAIN(2)
STORES_PLAIN(4)
STORES_PLAIN(8)
STORES_PLAIN(16)


#define STORES_CHANGE(size, type, name)                                       \
                                                                              \
    type __tsan_atomic##size##_##name(type *p, type v, int order);            \
                                                                              \
    type                                                                      \
    __tsan_atomic##size##_##name(type *p, type v,                             \
        __attribute__((unused)) int order)                                    \
    {                                                                         \
        type  was;                                                            \
                                                                              \
        stores_write(p, stores_caller());                                     \
        was = __atomic_##name(p, v, __ATOMIC_SEQ_CST);                        \
        stores_next();                                                        \
                                                                              \
        return was;                                                           \
    }


#define STORES_ATOMIC(size, type)                                             \
                                                                              \
    STORES_CHANGE(size, type, fetch_add)                                      \
    STORES_CHANGE(size, type, fetch_sub)                                      \
    STORES_CHANGE(size, type, fetch_and)                                      \
    STORES_CHANGE(size, type, fetch_or)                                       \
    STORES_CHANGE(size, type, fetch_xor)                                      \
                                                                              \
    type __tsan_atomic##size##_load(type *p, int order);                      \
    void __tsan_atomic##size##_store(type *p, type v, int order);             \
    type __tsan_atomic##size##_exchange(type *p, type v, int order);          \
    int __tsan_atomic##size##_compare_exchange_strong(type *p, type *old,     \
        type v, int success, int failure);                                    \
                                                                              \
    type                                                                      \
    __tsan_atomic##size##_load(type *p, __attribute__((unused)) int order)    \
    {                                                                         \
        stores_next();                                                        \
                                                                              \
        return __atomic_load_n(p, __ATOMIC_SEQ_CST);                          \
    }                                                                         \
                                                                              \
    void                                                                      \
    __tsan_atomic##size##_store(type *p, type v,                              \
        __attribute__((unused)) int order)                                    \
    {                                                                         \
        stores_write(p, stores_caller());                                     \
        __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                             \
        stores_next();                                                        \
    }                                                                         \
                                                                              \
    type                                                                      \
    __tsan_atomic##size##_exchange(type *p, type v,                           \
        __attribute__((unused)) int order)                                    \
    {                                                                         \
        type  was;                                                            \
                                                                              \
        stores_write(p, stores_caller());                                     \
        was = __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                    \
        stores_next();                                                        \
                                                                              \
        return was;                                                           \
    }                                                                         \
                                                                              \
    int                                                                       \
    __tsan_atomic##size##_compare_exchange_strong(type *p, type *old,         \
        type v, __attribute__((unused)) int success,                          \
        __attribute__((unused)) int failure)                                  \
    {                                                                         \
        int  swapped;                                                         \
                                                                              \
        stores_write(p, stores_caller());                                     \
        swapped = __atomic_compare_exchange_n(p, old, v, 0, __ATOMIC_SEQ_CST, \
                                              __ATOMIC_SEQ_CST);              \
        stores_next();                                                        \
                                                                              \
        return swapped;                                                       \
    }


STORES_ATOMIC(8, uint8_t)
STORES_ATOMIC(32, uint32_t)
STORES_ATOMIC(64, uint64_t)


void
__tsan_init(void)
{
}


void
__tsan_func_entry(__attribute__((unused)) void *caller)
{
    stores_next();
}


void
__tsan_func_exit(void)
{
    stores_next();
}


void
__tsan_read_range(__attribute__((unused)) void *p,
    __attribute__((unused)) size_t n)
{
    stores_next();
}


/* the assignment of a structure */

void
__tsan_write_range(void *p, __attribute__((unused)) size_t n)
{
    stores_write(p, stores_caller());
}


void
__tsan_atomic_thread_fence(__attribute__((unused)) int order)
{
    stores_next();
    __sync_synchronize();
}

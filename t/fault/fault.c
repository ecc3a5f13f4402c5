
/*
 * Which call fails.  CONVOTIC_FAULT names a file of some pages, which this
 * process and all it forks share with the test: the test writes the order,
 * reads what was reached.  Calls are counted from the moment the test sets
 * "calls" to 0, over all processes.
 */


#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>


#define FAULT_SITES  320
#define FAULT_NAME   112


/* as ngx_convotic_fault_site_t in fault.h, without nginx */

typedef struct {
    const char  *file;
    const char  *function;
    const char  *call;
    int          line;
} fault_site_t;


typedef enum {
    FAULT_NONE = 0,     /* count */
    FAULT_ONE,          /* the call "at" alone */
    FAULT_ALL           /* it and all that follow */
} fault_order_e;


typedef struct {
    uint32_t  reached;
    uint32_t  failed;
    char      name[FAULT_NAME];     /* "file:line function call" */
} fault_count_t;


/* little-endian 32-bit numbers for the test, see t/fault/allocations.t */

typedef struct {
    uint32_t       order;
    uint32_t       at;              /* 1 is the first */
    uint32_t       calls;
    uint32_t       failed;
    uint32_t       first;           /* number of the site that failed first */
    uint32_t       sites;
    fault_count_t  counts[FAULT_SITES];
} fault_shared_t;


extern const fault_site_t *__start_convotic_fault[]
    __attribute__((weak, visibility("hidden")));
extern const fault_site_t *__stop_convotic_fault[]
    __attribute__((weak, visibility("hidden")));

unsigned long ngx_convotic_fault(const fault_site_t **site);

static fault_shared_t  *fault;


__attribute__((constructor)) static void
fault_init(void)
{
    int                  fd;
    size_t               i, n;
    const char          *name, *file;
    const fault_site_t  *site;

    name = getenv("CONVOTIC_FAULT");
    if (name == NULL || *name == '\0') {
        return;
    }

    fd = open(name, O_RDWR);

    if (fd == -1 || ftruncate(fd, sizeof(fault_shared_t)) == -1) {
        perror(name);
        _exit(2);
    }

    fault = mmap(NULL, sizeof(fault_shared_t), PROT_READ|PROT_WRITE,
                 MAP_SHARED, fd, 0);

    if (fault == MAP_FAILED) {
        perror(name);
        _exit(2);
    }

    (void) close(fd);

    n = __stop_convotic_fault - __start_convotic_fault;

    if (n > FAULT_SITES) {
        fprintf(stderr, "fault.c: %zu sites, raise FAULT_SITES\n", n);
        _exit(2);
    }

    for (i = 0; i < n; i++) {
        site = __start_convotic_fault[i];

        file = strrchr(site->file, '/');
        file = file ? file + 1 : site->file;

        (void) snprintf(fault->counts[i].name, FAULT_NAME, "%s:%d %s %s",
                        file, site->line, site->function, site->call);
    }

    fault->sites = n;
}


unsigned long
ngx_convotic_fault(const fault_site_t **site)
{
    uint32_t        n;
    fault_count_t  *count;

    if (fault == NULL) {
        return 0;
    }

    count = &fault->counts[site - __start_convotic_fault];

    (void) __sync_fetch_and_add(&count->reached, 1);
    n = __sync_add_and_fetch(&fault->calls, 1);

    if (fault->order == FAULT_NONE || n < fault->at
        || (fault->order == FAULT_ONE && n > fault->at))
    {
        return 0;
    }

    (void) __sync_fetch_and_add(&count->failed, 1);

    if (__sync_fetch_and_add(&fault->failed, 1) == 0) {
        fault->first = site - __start_convotic_fault;
    }

    return 1;
}

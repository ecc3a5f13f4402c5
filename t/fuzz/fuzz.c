
/*
 * Owns the frame of the fuzz targets: libFuzzer's entry, the time, and what
 * stands in for the parts of nginx that have no place in a process without
 * cycles, connections and logs.  All else of nginx is its own code.
 */


#include "fuzz.h"


#define FUZZ_POOL  4096


ngx_log_t            fuzz_log;

ngx_pid_t            ngx_pid = 1;
volatile ngx_cycle_t  *ngx_cycle;
ngx_module_t         ngx_convotic_module;


static ngx_pool_t       *fuzz_kept;
static ngx_open_file_t   fuzz_file;
static ngx_connection_t  fuzz_connection;


int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
    ngx_pagesize = getpagesize();
    ngx_cacheline_size = NGX_CPU_CACHE_LINE;

    fuzz_log.file = &fuzz_file;
    fuzz_log.log_level = NGX_LOG_DEBUG;
    fuzz_connection.log = &fuzz_log;

    ngx_time_init();
    ngx_cached_time->sec = FUZZ_NOW;
    ngx_cached_time->msec = FUZZ_NOW_MSEC;
    ngx_current_msec = 100000000;

    fuzz_kept = ngx_create_pool(FUZZ_POOL, &fuzz_log);
    fuzz_assert(fuzz_kept, "no memory");

    fuzz_init(fuzz_kept);

    return 0;
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ngx_pool_t    *pool;
    fuzz_input_t   in;

    fuzz_memory_start();

    pool = ngx_create_pool(FUZZ_POOL, &fuzz_log);
    fuzz_assert(pool, "no memory");

    in.pos = (u_char *) data;
    in.last = in.pos + size;

    fuzz_one(pool, &in);

    ngx_destroy_pool(pool);

    fuzz_memory_done();

    return 0;
}


void
fuzz_fail(const char *file, int line, const char *text)
{
    fprintf(stderr, "%s:%d: broken invariant: %s\n", file, line, text);
    abort();
}


u_char
fuzz_byte(fuzz_input_t *in)
{
    return (in->pos < in->last) ? *in->pos++ : 0;
}


ngx_str_t
fuzz_until(ngx_pool_t *pool, fuzz_input_t *in, u_char end)
{
    u_char     *p, *start;

    start = in->pos;
    p = (start < in->last) ? memchr(start, end, in->last - start) : NULL;

    if (p == NULL) {
        p = in->last;
        in->pos = p;

    } else {
        in->pos = p + 1;
    }

    return fuzz_copy(pool, start, p - start);
}


ngx_str_t
fuzz_copy(ngx_pool_t *pool, u_char *data, size_t len)
{
    ngx_str_t  copy;

    copy.len = len;
    copy.data = ngx_pnalloc(pool, len ? len : 1);
    fuzz_assert(copy.data, "no memory");

    if (len) {
        ngx_memcpy(copy.data, data, len);
    }

    return copy;
}


uint64_t
fuzz_number(fuzz_input_t *in, uint64_t max)
{
    uint64_t  n;

    n = 0;

    while (in->pos < in->last && *in->pos >= '0' && *in->pos <= '9') {
        n = n * 10 + (*in->pos++ - '0');
        n = ngx_min(n, max);
    }

    return n;
}


ngx_uint_t
fuzz_equal(ngx_str_t *a, ngx_str_t *b)
{
    return a->len == b->len
           && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}


ngx_uint_t
fuzz_is(ngx_str_t *a, const char *text)
{
    return a->len == strlen(text) && fuzz_begins(a, text);
}


ngx_uint_t
fuzz_begins(ngx_str_t *a, const char *text)
{
    size_t  i;

    /* not by memcmp(), whose operands libFuzzer would write into inputs */

    for (i = 0; text[i]; i++) {
        if (i == a->len || a->data[i] != (u_char) text[i]) {
            return 0;
        }
    }

    return 1;
}


ngx_uint_t
fuzz_digits(ngx_str_t *a)
{
    size_t  i;

    for (i = 0; i < a->len; i++) {
        if (a->data[i] < '0' || a->data[i] > '9') {
            return 0;
        }
    }

    return a->len > 0;
}


ngx_uint_t
fuzz_utf8(ngx_str_t *a)
{
    size_t    i, k, n;
    uint32_t  ch;

    static const uint32_t  least[] = { 0, 0x80, 0x800, 0x10000 };

    for (i = 0; i < a->len; i += n + 1) {
        ch = a->data[i];

        if (ch < 0x80) {
            n = 0;

        } else if (ch >= 0xc0 && ch < 0xe0) {
            n = 1;
            ch &= 0x1f;

        } else if (ch >= 0xe0 && ch < 0xf0) {
            n = 2;
            ch &= 0x0f;

        } else if (ch >= 0xf0 && ch < 0xf8) {
            n = 3;
            ch &= 0x07;

        } else {
            return 0;
        }

        if (a->len - i <= n) {
            return 0;
        }

        for (k = 1; k <= n; k++) {

            if ((a->data[i + k] & 0xc0) != 0x80) {
                return 0;
            }

            ch = ch << 6 | (a->data[i + k] & 0x3f);
        }

        if (ch < least[n] || ch > 0x10ffff || (ch >= 0xd800 && ch < 0xe000)) {
            return 0;
        }
    }

    return 1;
}


ngx_http_request_t *
fuzz_request(ngx_pool_t *pool, void *main_conf, void *loc_conf)
{
    void                **confs;
    ngx_http_request_t   *r;

    r = ngx_pcalloc(pool, sizeof(ngx_http_request_t));
    confs = ngx_pcalloc(pool, 2 * sizeof(void *));
    fuzz_assert(r && confs, "no memory");

    confs[0] = main_conf;
    confs[1] = loc_conf;

    r->pool = pool;
    r->connection = &fuzz_connection;
    r->main_conf = &confs[0];
    r->loc_conf = &confs[1];

    return r;
}


/* what would be logged is formatted, and forgotten */

void
ngx_log_error_core(ngx_uint_t level, ngx_log_t *log, ngx_err_t err,
    const char *fmt, ...)
{
    u_char   text[NGX_MAX_ERROR_STR];
    va_list  args;

    va_start(args, fmt);
    (void) ngx_vslprintf(text, text + NGX_MAX_ERROR_STR, fmt, args);
    va_end(args);
}

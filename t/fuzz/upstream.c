
/*
 * An upstream's answer: lines of headers, an empty line, a body.  The first
 * byte of an input says which headers "proxy_ignore_headers" names, and what
 * is configured.
 *
 * A body that is judged as documented is found to be so by jansson, asked by
 * itself, and by a reader of our own of what JSON is.  An answer is kept for
 * no longer than is configured or a day; what forbids to keep it does so
 * wherever it stands; and how it is written changes nothing: in whatever
 * case, in one line or in several.
 */


#include "fuzz.h"

#include <jansson.h>

#include "ngx_convotic_conf.h"
#include "ngx_convotic_fresh.h"
#include "ngx_convotic_json.h"


#define FUZZ_UPSTREAM_HEADERS  64
#define FUZZ_UPSTREAM_VALID    30000
#define FUZZ_UPSTREAM_STALE    300000
#define FUZZ_UPSTREAM_DEPTH    2100

#define FUZZ_UPSTREAM_FLAGS                                                   \
    (JSON_DECODE_INT_AS_REAL|JSON_REJECT_DUPLICATES|JSON_ALLOW_NUL)


typedef enum {
    FUZZ_UPSTREAM_AS_THEY_ARE = 0,
    FUZZ_UPSTREAM_OTHER_CASE,
    FUZZ_UPSTREAM_BACKWARDS,
    FUZZ_UPSTREAM_JOINED
} fuzz_upstream_e;


typedef struct {
    ngx_str_t     name;
    ngx_str_t     value;
} fuzz_upstream_header_t;


typedef struct {
    fuzz_upstream_header_t  header[FUZZ_UPSTREAM_HEADERS];
    ngx_uint_t              n;
    ngx_uint_t              ignore;
} fuzz_upstream_t;


/* the outcome; stored: 0 or 1 */

typedef struct {
    ngx_uint_t    stored;
    ngx_msec_t    valid;
    ngx_msec_t    stale;
    time_t        age;
} fuzz_upstream_times_t;


static void fuzz_upstream_headers(ngx_pool_t *pool, fuzz_upstream_t *u);
static void fuzz_upstream_read(ngx_pool_t *pool, fuzz_upstream_t *u,
    fuzz_upstream_e how, ngx_convotic_fresh_t *fresh);
static void fuzz_upstream_times(const ngx_convotic_fresh_t *read,
    fuzz_upstream_header_t *more, fuzz_upstream_times_t *times);
static void fuzz_upstream_header(ngx_pool_t *pool,
    ngx_convotic_fresh_t *fresh, ngx_str_t *name, ngx_str_t *value,
    ngx_uint_t swap);
static ngx_str_t fuzz_upstream_swap(ngx_pool_t *pool, ngx_str_t *text);
static ngx_uint_t fuzz_upstream_ignored(ngx_str_t *name);
static ngx_uint_t fuzz_upstream_has(fuzz_upstream_t *u, const char *name);
static ngx_uint_t fuzz_upstream_name(ngx_str_t *a, const char *name);
static void fuzz_upstream_body(ngx_str_t *body);
static u_char *fuzz_upstream_value(u_char *p, u_char *last, ngx_uint_t depth);
static u_char *fuzz_upstream_string(u_char *p, u_char *last);
static u_char *fuzz_upstream_number(u_char *p, u_char *last);
static u_char *fuzz_upstream_blank(u_char *p, u_char *last);


/* what forbids to store an answer, and two that shorten its life */

static fuzz_upstream_header_t  fuzz_upstream_more[] = {
    { ngx_string("Cache-Control"), ngx_string("no-store") },
    { ngx_string("cache-control"), ngx_string("max-age=60 , PRIVATE") },
    { ngx_string("Cache-Control"),
      ngx_string("x=\"a,b\", no-cache=\"Set-Cookie\"") },
    { ngx_string("Cache-Control"), ngx_string("x=\"") },
    { ngx_string("Cache-Control"), ngx_string("x=\"\\") },
    { ngx_string("Cache-Control"), ngx_string("max-age = 60") },
    { ngx_string("Set-Cookie"), ngx_string("a=b") },
    { ngx_string("Vary"), ngx_string("*") },
    { ngx_string("VARY"), ngx_string("Accept-Encoding, X-API-Key") },
    { ngx_string("Vary"), ngx_string("Accept-Encoding=gzip") },
    { ngx_string("Age"), ngx_string("10") },
    { ngx_string("Cache-Control"), ngx_string("must-revalidate") }
};

#define FUZZ_UPSTREAM_FORBIDDEN   10
#define FUZZ_UPSTREAM_AGE         (&fuzz_upstream_more[10])
#define FUZZ_UPSTREAM_REVALIDATE  (&fuzz_upstream_more[11])


void
fuzz_init(ngx_pool_t *pool)
{
    ngx_uint_t               i;
    fuzz_upstream_header_t  *more;

    json_object_seed(1);
    json_set_alloc_funcs(fuzz_malloc, fuzz_free);

    /* where reading beyond their ends is noticed */

    for (i = 0; i < FUZZ_UPSTREAM_FORBIDDEN + 2; i++) {
        more = &fuzz_upstream_more[i];
        more->name = fuzz_copy(pool, more->name.data, more->name.len);
        more->value = fuzz_copy(pool, more->value.data, more->value.len);
    }
}


void
fuzz_one(ngx_pool_t *pool, fuzz_input_t *in)
{
    u_char                   config;
    ngx_str_t                line, body;
    fuzz_upstream_t          u;
    fuzz_upstream_header_t  *header;
    fuzz_input_t             rest;

    static const ngx_uint_t  ignore[] = {
        NGX_HTTP_UPSTREAM_IGN_CACHE_CONTROL,
        NGX_HTTP_UPSTREAM_IGN_EXPIRES,
        NGX_HTTP_UPSTREAM_IGN_XA_EXPIRES,
        NGX_HTTP_UPSTREAM_IGN_SET_COOKIE,
        NGX_HTTP_UPSTREAM_IGN_VARY
    };

    ngx_memzero(&u, sizeof(fuzz_upstream_t));

    config = fuzz_byte(in);
    (void) fuzz_until(pool, in, '\n');

    if (config >= 'a' && config <= 'e') {
        u.ignore = ignore[config - 'a'];
    }

    while (in->pos < in->last) {
        line = fuzz_until(pool, in, '\n');

        if (line.len == 0) {
            break;
        }

        if (u.n == FUZZ_UPSTREAM_HEADERS) {
            continue;
        }

        rest.pos = line.data;
        rest.last = line.data + line.len;

        header = &u.header[u.n++];
        header->name = fuzz_until(pool, &rest, ':');

        while (rest.pos < rest.last && *rest.pos == ' ') {
            rest.pos++;
        }

        header->value = fuzz_copy(pool, rest.pos, rest.last - rest.pos);
    }

    fuzz_upstream_headers(pool, &u);

    body = fuzz_copy(pool, in->pos, in->last - in->pos);

    fuzz_upstream_body(&body);
}


static void
fuzz_upstream_headers(ngx_pool_t *pool, fuzz_upstream_t *u)
{
    ngx_uint_t               i;
    ngx_convotic_fresh_t     fresh, again;
    fuzz_upstream_times_t    is, other;
    fuzz_upstream_header_t  *more;

    fuzz_upstream_read(pool, u, FUZZ_UPSTREAM_AS_THEY_ARE, &fresh);
    fuzz_upstream_times(&fresh, NULL, &is);

    if (is.stored) {
        fuzz_assert(is.valid > 0 && is.stale <= FUZZ_UPSTREAM_STALE,
                    "stale for longer than is configured");
        fuzz_assert(is.valid <= NGX_CONVOTIC_FRESH_MAX * 1000,
                    "fresh for more than a day");
        fuzz_assert(is.valid == FUZZ_UPSTREAM_VALID
                    || fuzz_upstream_has(u, "Cache-Control")
                    || fuzz_upstream_has(u, "Expires")
                    || fuzz_upstream_has(u, "X-Accel-Expires"),
                    "fresh for another time, and nothing says so");
    }

    fuzz_assert(is.age >= 0, "an age below zero");

    fuzz_upstream_read(pool, u, FUZZ_UPSTREAM_OTHER_CASE, &again);
    fuzz_upstream_times(&again, NULL, &other);
    fuzz_assert(other.stored == is.stored && other.valid == is.valid
                && other.stale == is.stale && other.age == is.age,
                "another outcome in another case");

    /* of two Date headers the last counts */

    if (!fuzz_upstream_has(u, "Date")
        && !fuzz_upstream_has(u, "X-Accel-Expires"))
    {
        fuzz_upstream_read(pool, u, FUZZ_UPSTREAM_BACKWARDS, &again);
        fuzz_upstream_times(&again, NULL, &other);
        fuzz_assert(other.stored == is.stored && other.valid == is.valid
                    && other.stale == is.stale && other.age == is.age,
                    "another outcome in another order");
    }

    /* RFC 9110, 5.3; a quotation mark that is open goes on, in one line */

    fuzz_upstream_read(pool, u, FUZZ_UPSTREAM_JOINED, &again);
    fuzz_upstream_times(&again, NULL, &other);

    if (is.stored && other.stored) {
        fuzz_assert(other.valid == is.valid && other.stale == is.stale,
                    "another outcome in one line");
    }

    for (i = 0; i < FUZZ_UPSTREAM_FORBIDDEN; i++) {
        more = &fuzz_upstream_more[i];

        if (u->ignore & fuzz_upstream_ignored(&more->name)) {
            continue;
        }

        fuzz_upstream_times(&fresh, more, &other);
        fuzz_assert(!other.stored, "stored, although that is forbidden");
    }

    /* who says that it is older, or that it lives for less, is believed */

    fuzz_upstream_times(&fresh, FUZZ_UPSTREAM_AGE, &other);
    fuzz_assert(!other.stored || (is.stored && other.valid <= is.valid),
                "fresh for longer, with an age");

    fuzz_upstream_times(&fresh, FUZZ_UPSTREAM_REVALIDATE, &other);
    fuzz_assert(other.stored == is.stored
                && (!other.stored || other.valid == is.valid)
                && ((u->ignore & NGX_HTTP_UPSTREAM_IGN_CACHE_CONTROL)
                    || !other.stored || other.stale == 0),
                "must-revalidate is not obeyed");
}


static void
fuzz_upstream_read(ngx_pool_t *pool, fuzz_upstream_t *u, fuzz_upstream_e how,
    ngx_convotic_fresh_t *fresh)
{
    u_char                  *p;
    size_t                   len;
    ngx_str_t                n, joined;
    ngx_uint_t               i, k;
    fuzz_upstream_header_t  *header;

    ngx_convotic_fresh_init(fresh, u->ignore);

    len = 1;

    for (i = 0; i < u->n; i++) {
        len += u->header[i].value.len + 1;
    }

    p = ngx_pnalloc(pool, len);
    fuzz_assert(p, "no memory");
    joined.data = p;

    for (i = 0; i < u->n; i++) {
        k = (how == FUZZ_UPSTREAM_BACKWARDS) ? u->n - 1 - i : i;
        header = &u->header[k];

        if (how == FUZZ_UPSTREAM_JOINED
            && fuzz_upstream_name(&header->name, "Cache-Control"))
        {
            p = ngx_cpymem(p, header->value.data, header->value.len);
            *p++ = ',';
            continue;
        }

        fuzz_upstream_header(pool, fresh, &header->name, &header->value,
                             how == FUZZ_UPSTREAM_OTHER_CASE);
    }

    joined.len = p - joined.data;

    if (joined.len) {
        ngx_str_set(&n, "Cache-Control");
        fuzz_upstream_header(pool, fresh, &n, &joined, 0);
    }
}


/* more: one more header, behind those that were read, or NULL */

static void
fuzz_upstream_times(const ngx_convotic_fresh_t *read,
    fuzz_upstream_header_t *more, fuzz_upstream_times_t *times)
{
    ngx_int_t             rc;
    ngx_convotic_fresh_t  fresh;

    fresh = *read;

    if (more) {
        ngx_convotic_fresh_header(&fresh, &more->name, &more->value);
    }

    times->valid = FUZZ_UPSTREAM_VALID;
    times->stale = FUZZ_UPSTREAM_STALE;

    rc = ngx_convotic_fresh_times(&fresh, &times->valid, &times->stale);

    times->stored = (rc == NGX_OK);
    times->age = fresh.age;

    fuzz_assert(times->stored == (fresh.refused == NULL),
                "a reason without a refusal, or none for one");

    if (!times->stored) {
        times->valid = 0;
        times->stale = 0;
    }
}


static void
fuzz_upstream_header(ngx_pool_t *pool, ngx_convotic_fresh_t *fresh,
    ngx_str_t *name, ngx_str_t *value, ngx_uint_t swap)
{
    ngx_str_t  n, v;

    n = swap ? fuzz_upstream_swap(pool, name) : *name;
    v = *value;

    if (swap && (fuzz_upstream_name(name, "Cache-Control")
                 || fuzz_upstream_name(name, "Vary")))
    {
        v = fuzz_upstream_swap(pool, value);
    }

    ngx_convotic_fresh_header(fresh, &n, &v);
}


static ngx_str_t
fuzz_upstream_swap(ngx_pool_t *pool, ngx_str_t *text)
{
    u_char     ch;
    size_t     i;
    ngx_str_t  swapped;

    swapped = fuzz_copy(pool, text->data, text->len);

    for (i = 0; i < text->len; i++) {
        ch = text->data[i] | 0x20;

        if (ch >= 'a' && ch <= 'z') {
            swapped.data[i] ^= 0x20;
        }
    }

    return swapped;
}


/* what "proxy_ignore_headers" calls it */

static ngx_uint_t
fuzz_upstream_ignored(ngx_str_t *name)
{
    return fuzz_upstream_name(name, "Set-Cookie")
           ? NGX_HTTP_UPSTREAM_IGN_SET_COOKIE
           : fuzz_upstream_name(name, "Vary")
             ? NGX_HTTP_UPSTREAM_IGN_VARY
             : NGX_HTTP_UPSTREAM_IGN_CACHE_CONTROL;
}


static ngx_uint_t
fuzz_upstream_has(fuzz_upstream_t *u, const char *name)
{
    ngx_uint_t  i;

    for (i = 0; i < u->n; i++) {
        if (fuzz_upstream_name(&u->header[i].name, name)) {
            return 1;
        }
    }

    return 0;
}


static ngx_uint_t
fuzz_upstream_name(ngx_str_t *a, const char *name)
{
    return a->len == strlen(name)
           && strncasecmp((char *) a->data, name, a->len) == 0;
}


static void
fuzz_upstream_body(ngx_str_t *body)
{
    u_char      *p, *last;
    double       value;
    json_t      *root, *limit;
    ngx_int_t    rc, n;
    ngx_uint_t   shape;
    const char  *err;

    rc = ngx_convotic_json_judge(body, &n, &err);

    root = json_loadb((char *) body->data, body->len, FUZZ_UPSTREAM_FLAGS,
                      NULL);
    limit = json_object_get(root, "limit");

    /* behind a number or a word, jansson does not see a NUL */

    shape = (body->len == 0 || memchr(body->data, '\0', body->len) == NULL)
            && json_is_array(json_object_get(root, "contacts"))
            && json_is_number(json_object_get(root, "total"))
            && json_is_number(limit);

    value = shape ? json_number_value(limit) : -1;

    json_decref(root);

    fuzz_assert(rc == (shape ? NGX_OK : NGX_DECLINED),
                "judged otherwise than by jansson");
    fuzz_assert(shape == (err == NULL), "a verdict without its reason");
    fuzz_assert(n == -1 || (shape && (double) n == value), "another limit");
    fuzz_assert(n >= -1 && n <= 1000000, "a limit beyond its bounds");

    if (err) {
        return;
    }

    fuzz_assert(fuzz_utf8(body), "JSON that is not UTF-8");

    last = body->data + body->len;

    p = fuzz_upstream_value(body->data, last, 0);
    p = p ? fuzz_upstream_blank(p, last) : NULL;

    fuzz_assert(p == last, "JSON that is none");
}


/* RFC 8259; where the value ends, NULL: it is none */

static u_char *
fuzz_upstream_value(u_char *p, u_char *last, ngx_uint_t depth)
{
    u_char       end;
    size_t       n;
    ngx_uint_t   i;

    static const char  *words[] = { "true", "false", "null" };

    p = fuzz_upstream_blank(p, last);

    if (p == last || depth > FUZZ_UPSTREAM_DEPTH) {
        return NULL;
    }

    if (*p == '"') {
        return fuzz_upstream_string(p, last);
    }

    if (*p != '{' && *p != '[') {

        for (i = 0; i < 3; i++) {
            n = strlen(words[i]);

            if ((size_t) (last - p) >= n && memcmp(p, words[i], n) == 0) {
                return p + n;
            }
        }

        return fuzz_upstream_number(p, last);
    }

    end = (*p == '{') ? '}' : ']';

    p = fuzz_upstream_blank(p + 1, last);

    if (p < last && *p == end) {
        return p + 1;
    }

    for ( ;; ) {

        if (end == '}') {
            p = fuzz_upstream_blank(p, last);
            p = fuzz_upstream_string(p, last);
            p = p ? fuzz_upstream_blank(p, last) : NULL;

            if (p == NULL || p == last || *p++ != ':') {
                return NULL;
            }
        }

        p = fuzz_upstream_value(p, last, depth + 1);
        p = p ? fuzz_upstream_blank(p, last) : NULL;

        if (p == NULL || p == last) {
            return NULL;
        }

        if (*p == end) {
            return p + 1;
        }

        if (*p++ != ',') {
            return NULL;
        }
    }
}


static u_char *
fuzz_upstream_string(u_char *p, u_char *last)
{
    ngx_uint_t  i;

    if (p == last || *p++ != '"') {
        return NULL;
    }

    while (p < last && *p >= ' ') {

        if (*p == '"') {
            return p + 1;
        }

        if (*p++ != '\\') {
            continue;
        }

        if (p == last || memchr("\"\\/bfnrtu", *p, 9) == NULL) {
            return NULL;
        }

        if (*p++ != 'u') {
            continue;
        }

        for (i = 0; i < 4; i++, p++) {
            if (p == last || !isxdigit(*p)) {
                return NULL;
            }
        }
    }

    return NULL;
}


static u_char *
fuzz_upstream_number(u_char *p, u_char *last)
{
    u_char      *start;
    ngx_uint_t   part;

    p += (*p == '-');
    start = p;

    for (part = 0; part < 3; part++) {

        if (part == 1) {
            if (p == last || *p != '.') {
                continue;
            }

            p++;

        } else if (part == 2) {
            if (p == last || (*p | 0x20) != 'e') {
                continue;
            }

            p++;
            p += (p < last && (*p == '+' || *p == '-'));
        }

        if (p == last || !isdigit(*p)) {
            return NULL;
        }

        while (p < last && isdigit(*p)) {
            p++;
        }

        if (part == 0 && *start == '0' && p - start > 1) {
            return NULL;
        }
    }

    return p;
}


static u_char *
fuzz_upstream_blank(u_char *p, u_char *last)
{
    while (p < last && memchr(" \t\r\n", *p, 4)) {
        p++;
    }

    return p;
}

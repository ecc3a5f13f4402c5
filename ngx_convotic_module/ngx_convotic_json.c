
/*
 * Owns every use of jansson.  A document is parsed, looked at and forgotten
 * within one call, and nothing is kept from one to the next but memory: an
 * arena serves jansson meanwhile, for a hundred contacts make thousands of
 * allocations.  The size of what comes here has been bounded by the caller,
 * for parsing takes many times a document's size in memory.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <jansson.h>

#include "ngx_convotic_json.h"


/*
 * Integers are read as reals, for jansson refuses those beyond 63 bits and
 * nothing is computed with them.  A duplicate name could be read as one value
 * here and as another by the client.
 */

#define NGX_CONVOTIC_JSON_FLAGS                                               \
    (JSON_DECODE_INT_AS_REAL|JSON_REJECT_DUPLICATES|JSON_ALLOW_NUL)

/* of an upstream's message that is passed on */
#define NGX_CONVOTIC_JSON_MESSAGE_MAX  1024

/* a whole number of pointers */
#define NGX_CONVOTIC_JSON_CHUNK        (256 * 1024)


typedef struct ngx_convotic_json_chunk_s  ngx_convotic_json_chunk_t;

struct ngx_convotic_json_chunk_s {
    ngx_convotic_json_chunk_t  *next;
};


/*
 * Between _start() and _done() all that jansson has is in the arena, so no
 * value needs json_decref(); before and after, jansson allocates as whoever
 * else in the process uses it has left it.  The last allocation alone can be
 * given back.  Static, because jansson's functions take no context; they are
 * of the process, so no thread may use jansson meanwhile.
 */

typedef struct {
    ngx_uint_t                  exhausted;   /* there was no memory */
    u_char                     *pos;
    u_char                     *end;
    u_char                     *last;    /* the last allocation, or NULL */
    ngx_convotic_json_chunk_t  *chunks;  /* those beside the one kept */
    json_malloc_t               malloc;  /* whose place ours have taken */
    json_free_t                 free;
} ngx_convotic_json_arena_t;


static json_t *ngx_convotic_json_load(ngx_str_t *body);
static const char *ngx_convotic_json_judge_value(json_t *root,
    ngx_int_t *limit);
static ngx_int_t ngx_convotic_json_copy(ngx_pool_t *pool, json_t *string,
    ngx_str_t *value);
static ngx_uint_t ngx_convotic_json_plain(ngx_str_t *text);
static ngx_int_t ngx_convotic_json_escape(ngx_pool_t *pool,
    ngx_str_t *text);
static void ngx_convotic_json_arena_start(void);
static void ngx_convotic_json_arena_done(void);
static void *ngx_convotic_json_arena_malloc(size_t size);
static void *ngx_convotic_json_arena_grow(size_t size);
static void ngx_convotic_json_arena_free(void *p);


static ngx_convotic_json_arena_t  ngx_convotic_json_arena;

/* the first chunk; a worker has as many of its pages as it has ever needed */

static void  *ngx_convotic_json_kept[NGX_CONVOTIC_JSON_CHUNK / sizeof(void *)];


ngx_int_t
ngx_convotic_json_judge(ngx_str_t *body, ngx_int_t *limit, const char **err)
{
    json_t  *root;

    *limit = -1;

    ngx_convotic_json_arena_start();

    root = ngx_convotic_json_load(body);

    *err = root ? ngx_convotic_json_judge_value(root, limit)
                : "it is not JSON";

    ngx_convotic_json_arena_done();

    if (root == NULL && ngx_convotic_json_arena.exhausted) {
        return NGX_ERROR;
    }

    return *err ? NGX_DECLINED : NGX_OK;
}


/* jansson overlooks a NUL behind a number or a word, and JSON has none */

static json_t *
ngx_convotic_json_load(ngx_str_t *body)
{
    json_error_t  unused;

    if (memchr(body->data, '\0', body->len)) {
        return NULL;
    }

    return json_loadb((char *) body->data, body->len,
                      NGX_CONVOTIC_JSON_FLAGS, &unused);
}


static const char *
ngx_convotic_json_judge_value(json_t *root, ngx_int_t *limit)
{
    double   value;
    json_t  *number;

    if (!json_is_object(root)) {
        return "it is not a JSON object";
    }

    if (!json_is_array(json_object_get(root, "contacts"))) {
        return "it has no array \"contacts\"";
    }

    if (!json_is_number(json_object_get(root, "total"))) {
        return "it has no number \"total\"";
    }

    number = json_object_get(root, "limit");

    if (!json_is_number(number)) {
        return "it has no number \"limit\"";
    }

    value = json_number_value(number);

    if (value >= 0 && value <= 1e6 && value == (double) (ngx_int_t) value) {
        *limit = (ngx_int_t) value;
    }

    return NULL;
}


ngx_int_t
ngx_convotic_json_judge_error(ngx_pool_t *pool, ngx_str_t *body,
    ngx_str_t *code, ngx_str_t *message)
{
    json_t     *root, *error, *c, *m;
    ngx_int_t   rc;

    ngx_convotic_json_arena_start();

    root = ngx_convotic_json_load(body);

    error = json_object_get(root, "error");
    c = json_object_get(error, "code");
    m = json_object_get(error, "message");

    rc = NGX_DECLINED;

    if (json_is_string(c) && json_is_string(m)
        && json_string_length(m) > 0
        && json_string_length(m) <= NGX_CONVOTIC_JSON_MESSAGE_MAX)
    {
        rc = ngx_convotic_json_copy(pool, c, code);

        if (rc == NGX_OK) {
            rc = ngx_convotic_json_copy(pool, m, message);
        }
    }

    ngx_convotic_json_arena_done();

    return rc;
}


static ngx_int_t
ngx_convotic_json_copy(ngx_pool_t *pool, json_t *string, ngx_str_t *value)
{
    value->len = json_string_length(string);

    value->data = ngx_pnalloc(pool, value->len + 1);
    if (value->data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(value->data, json_string_value(string), value->len);
    value->data[value->len] = '\0';

    return NGX_OK;
}


/*
 * A refused request should cost little: jansson is asked only for what needs
 * escaping.
 */

ngx_int_t
ngx_convotic_json_error(ngx_pool_t *pool, const char *code,
    ngx_str_t *message, ngx_str_t *body)
{
    size_t      n;
    u_char     *p;
    ngx_str_t   text;

    static const char  head[] = "{\"error\":{\"code\":\"";
    static const char  middle[] = "\",\"message\":\"";
    static const char  tail[] = "\"}}";

    text = *message;

    if (!ngx_convotic_json_plain(&text)
        && ngx_convotic_json_escape(pool, &text) != NGX_OK)
    {
        return NGX_ERROR;
    }

    n = ngx_strlen(code);

    body->len = sizeof(head) - 1 + n + sizeof(middle) - 1 + text.len
                + sizeof(tail) - 1;

    body->data = ngx_pnalloc(pool, body->len);
    if (body->data == NULL) {
        return NGX_ERROR;
    }

    p = ngx_cpymem(body->data, head, sizeof(head) - 1);
    p = ngx_cpymem(p, code, n);
    p = ngx_cpymem(p, middle, sizeof(middle) - 1);
    p = ngx_cpymem(p, text.data, text.len);
    ngx_memcpy(p, tail, sizeof(tail) - 1);

    return NGX_OK;
}


/* whether it is printable ASCII without what RFC 8259, 7 escapes */

static ngx_uint_t
ngx_convotic_json_plain(ngx_str_t *text)
{
    u_char  *p, *last;

    last = text->data + text->len;

    for (p = text->data; p < last; p++) {

        if (*p < ' ' || *p > '~' || *p == '"' || *p == '\\') {
            return 0;
        }
    }

    return 1;
}


/* text becomes what stands between the quotation marks, in the pool */

static ngx_int_t
ngx_convotic_json_escape(ngx_pool_t *pool, ngx_str_t *text)
{
    size_t   n;
    u_char  *p;
    json_t  *string;

    ngx_convotic_json_arena_start();

    /* NULL: it is not UTF-8 */

    string = json_stringn((char *) text->data, text->len);

    n = json_dumpb(string, NULL, 0, JSON_ENCODE_ANY);
    p = n ? ngx_pnalloc(pool, n) : NULL;

    if (p) {
        (void) json_dumpb(string, (char *) p, n, JSON_ENCODE_ANY);

        text->data = p + 1;
        text->len = n - 2;
    }

    ngx_convotic_json_arena_done();

    return p ? NGX_OK : NGX_ERROR;
}


static void
ngx_convotic_json_arena_start(void)
{
    ngx_convotic_json_arena_t  *arena;

    arena = &ngx_convotic_json_arena;

    arena->pos = (u_char *) ngx_convotic_json_kept;
    arena->end = arena->pos + NGX_CONVOTIC_JSON_CHUNK;
    arena->last = NULL;
    arena->chunks = NULL;
    arena->exhausted = 0;

    json_get_alloc_funcs(&arena->malloc, &arena->free);
    json_set_alloc_funcs(ngx_convotic_json_arena_malloc,
                         ngx_convotic_json_arena_free);
}


static void
ngx_convotic_json_arena_done(void)
{
    ngx_convotic_json_arena_t  *arena;
    ngx_convotic_json_chunk_t  *chunk, *next;

    arena = &ngx_convotic_json_arena;

    json_set_alloc_funcs(arena->malloc, arena->free);

    for (chunk = arena->chunks; chunk; chunk = next) {
        next = chunk->next;
        free(chunk);
    }
}


/* jansson asks for nothing that is aligned to more than a pointer */

static void *
ngx_convotic_json_arena_malloc(size_t size)
{
    ngx_convotic_json_arena_t  *arena;

    arena = &ngx_convotic_json_arena;

    size = ngx_align(size, sizeof(void *));

    if (size > (size_t) (arena->end - arena->pos)) {
        return ngx_convotic_json_arena_grow(size);
    }

    arena->last = arena->pos;
    arena->pos += size;

    return arena->last;
}


static void *
ngx_convotic_json_arena_grow(size_t size)
{
    size_t                      n;
    ngx_convotic_json_arena_t  *arena;
    ngx_convotic_json_chunk_t  *chunk;

    arena = &ngx_convotic_json_arena;

    n = ngx_max(size, NGX_CONVOTIC_JSON_CHUNK);

    chunk = malloc(sizeof(ngx_convotic_json_chunk_t) + n);
    if (chunk == NULL) {
        arena->exhausted = 1;
        return NULL;
    }

    chunk->next = arena->chunks;
    arena->chunks = chunk;

    arena->last = (u_char *) (chunk + 1);
    arena->pos = arena->last + size;
    arena->end = arena->last + n;

    return arena->last;
}


static void
ngx_convotic_json_arena_free(void *p)
{
    ngx_convotic_json_arena_t  *arena;

    arena = &ngx_convotic_json_arena;

    if (p == arena->last) {
        arena->pos = p;
        arena->last = NULL;
    }
}


/*
 * Owns the translation between bytes and replies: hiredis's reader with
 * objects of our own, so that its limits can be ours.  A hostile or broken
 * server may send anything; what a reader holds is bounded by max, what a
 * reply holds by max and NGX_CONVOTIC_RESP_ELEMENTS, and the time for a byte
 * by a constant.  Called by redis.c alone.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <hiredis/hiredis.h>

#include "ngx_convotic_digits.h"
#include "ngx_convotic_resp.h"


/* elements of one reply, nested ones included */
#define NGX_CONVOTIC_RESP_ELEMENTS  4096

/*
 * A line is searched for its end again with each feed; a longer one than
 * this is no reply of Redis's.
 */
#define NGX_CONVOTIC_RESP_LINE      4096

/*
 * Arrays in each other, where nothing else bounds them: below an oversize one.
 * hiredis 0.14 has no more anywhere, 1.0 has a stack that grows.
 */
#define NGX_CONVOTIC_RESP_DEPTH     8


#if (HIREDIS_MAJOR > 0)
typedef size_t  ngx_convotic_resp_count_t;
#else
typedef int     ngx_convotic_resp_count_t;
#endif


struct ngx_convotic_resp_reader_s {
    redisReader                *hiredis;
    redisReplyObjectFunctions   functions;
    size_t                      max;
    size_t                      elements;    /* of the reply being read */
    ngx_uint_t                  skip;
    ngx_uint_t                  exhausted;   /* there was no memory */
    ngx_log_t                  *log;
};


/*
 * What hiredis is told to have made of anything below an oversize array: in no
 * reply, never written to, never freed.
 */

static const ngx_convotic_resp_t  ngx_convotic_resp_skipped = {
    NGX_CONVOTIC_RESP_ARRAY, 0, ngx_null_string, 0, NULL, 1
};


static u_char *ngx_convotic_resp_number(u_char *p, u_char type, size_t n);
static void *ngx_convotic_resp_create_string(const redisReadTask *task,
    char *data, size_t len);
static void *ngx_convotic_resp_create_array(const redisReadTask *task,
    ngx_convotic_resp_count_t n);
static void *ngx_convotic_resp_create_integer(const redisReadTask *task,
    long long value);
static void *ngx_convotic_resp_create_nil(const redisReadTask *task);
#if (HIREDIS_MAJOR > 0)
static void *ngx_convotic_resp_create_double(const redisReadTask *task,
    double value, char *data, size_t len);
static void *ngx_convotic_resp_create_bool(const redisReadTask *task,
    int value);
#endif
static void ngx_convotic_resp_free_object(void *object);
static ngx_uint_t ngx_convotic_resp_in_oversize(const redisReadTask *task);
static ngx_uint_t ngx_convotic_resp_too_deep(const redisReadTask *task);
static ngx_convotic_resp_t *ngx_convotic_resp_add(const redisReadTask *task,
    ngx_convotic_resp_type_e type, size_t extra);


ngx_convotic_resp_reader_t *
ngx_convotic_resp_create(size_t max, ngx_uint_t skip, ngx_log_t *log)
{
    ngx_convotic_resp_reader_t  *reader;

    reader = ngx_calloc(sizeof(ngx_convotic_resp_reader_t), log);
    if (reader == NULL) {
        return NULL;
    }

    reader->max = max;
    reader->skip = skip;
    reader->log = log;

    reader->functions.createString = ngx_convotic_resp_create_string;
    reader->functions.createArray = ngx_convotic_resp_create_array;
    reader->functions.createInteger = ngx_convotic_resp_create_integer;
    reader->functions.createNil = ngx_convotic_resp_create_nil;
#if (HIREDIS_MAJOR > 0)
    reader->functions.createDouble = ngx_convotic_resp_create_double;
    reader->functions.createBool = ngx_convotic_resp_create_bool;
#endif
    reader->functions.freeObject = ngx_convotic_resp_free_object;

    reader->hiredis = redisReaderCreateWithFunctions(&reader->functions);
    if (reader->hiredis == NULL) {
        ngx_free(reader);
        return NULL;
    }

    reader->hiredis->privdata = reader;

    return reader;
}


void
ngx_convotic_resp_destroy(ngx_convotic_resp_reader_t *reader)
{
    redisReaderFree(reader->hiredis);
    ngx_free(reader);
}


ngx_int_t
ngx_convotic_resp_feed(ngx_convotic_resp_reader_t *reader, u_char *data,
    size_t len)
{
    if (redisReaderFeed(reader->hiredis, (char *) data, len) != REDIS_OK) {
        return NGX_ERROR;
    }

    return NGX_OK;
}


ngx_int_t
ngx_convotic_resp_next(ngx_convotic_resp_reader_t *reader,
    ngx_convotic_resp_t **reply)
{
    void         *object;
    size_t        rest;
    redisReader  *hiredis;

    object = NULL;
    hiredis = reader->hiredis;

    if (redisReaderGetReply(hiredis, &object) != REDIS_OK) {
        return reader->exhausted ? NGX_ABORT : NGX_ERROR;
    }

    if (object) {
        *reply = object;
        return NGX_OK;
    }

    rest = hiredis->len - hiredis->pos;

    if (rest > reader->max) {
        return NGX_ERROR;
    }

    /*
     * What is left begins with a line, even in the middle of a bulk string:
     * the one that has its length.
     */

    if (rest > NGX_CONVOTIC_RESP_LINE
        && memchr(hiredis->buf + hiredis->pos, '\n', NGX_CONVOTIC_RESP_LINE)
           == NULL)
    {
        return NGX_ERROR;
    }

    return NGX_AGAIN;
}


void
ngx_convotic_resp_free(ngx_convotic_resp_t *reply)
{
    size_t  i;

    if (reply == NULL) {
        return;
    }

    for (i = 0; i < reply->nelts; i++) {
        ngx_convotic_resp_free(reply->elts[i]);
    }

    ngx_free(reply);
}


/*
 * Not by redisFormatCommandArgv(): it takes 2,000 instructions for the
 * smallest command, and memory of its own for the largest.
 */

size_t
ngx_convotic_resp_length(ngx_uint_t argc, ngx_str_t *argv)
{
    size_t      len;
    ngx_uint_t  i;

    len = sizeof("*\r\n") - 1 + NGX_SIZE_T_LEN;

    for (i = 0; i < argc; i++) {
        len += sizeof("$\r\n\r\n") - 1 + NGX_SIZE_T_LEN + argv[i].len;
    }

    return len;
}


u_char *
ngx_convotic_resp_encode(u_char *p, ngx_uint_t argc, ngx_str_t *argv)
{
    ngx_uint_t  i;

    p = ngx_convotic_resp_number(p, '*', argc);

    for (i = 0; i < argc; i++) {
        p = ngx_convotic_resp_number(p, '$', argv[i].len);
        p = ngx_cpymem(p, argv[i].data, argv[i].len);
        *p++ = CR;
        *p++ = LF;
    }

    return p;
}


static u_char *
ngx_convotic_resp_number(u_char *p, u_char type, size_t n)
{
    *p++ = type;
    p = ngx_convotic_digits(p, n);
    *p++ = CR;
    *p++ = LF;

    return p;
}


static void *
ngx_convotic_resp_create_string(const redisReadTask *task, char *data,
    size_t len)
{
    ngx_convotic_resp_t       *reply;
    ngx_convotic_resp_type_e   type;

    switch (task->type) {

    case REDIS_REPLY_STRING:
        type = NGX_CONVOTIC_RESP_STRING;
        break;

    case REDIS_REPLY_STATUS:
        type = NGX_CONVOTIC_RESP_STATUS;
        break;

    case REDIS_REPLY_ERROR:
        type = NGX_CONVOTIC_RESP_ERROR;
        break;

    default: /* RESP3, which was not asked for */
        return NULL;
    }

    if (ngx_convotic_resp_in_oversize(task)) {
        return (void *) &ngx_convotic_resp_skipped;
    }

    reply = ngx_convotic_resp_add(task, type, len + 1);
    if (reply == NULL) {
        return NULL;
    }

    reply->str.data = (u_char *) reply + sizeof(ngx_convotic_resp_t);
    reply->str.len = len;

    ngx_memcpy(reply->str.data, data, len);
    reply->str.data[len] = '\0';

    return reply;
}


static void *
ngx_convotic_resp_create_array(const redisReadTask *task,
    ngx_convotic_resp_count_t n)
{
    size_t                       size;
    ngx_convotic_resp_t         *reply;
    ngx_convotic_resp_reader_t  *reader;

    reader = task->privdata;

    if (task->type != REDIS_REPLY_ARRAY) {
        return NULL;
    }

    if (ngx_convotic_resp_in_oversize(task)) {
        return ngx_convotic_resp_too_deep(task)
               ? NULL : (void *) &ngx_convotic_resp_skipped;
    }

    if (task->parent == NULL) {
        reader->elements = 0;
    }

    /* all that were announced, for each has its place from now on */

    if ((size_t) n > NGX_CONVOTIC_RESP_ELEMENTS - reader->elements) {

        if (!reader->skip) {
            return NULL;
        }

        reply = ngx_convotic_resp_add(task, NGX_CONVOTIC_RESP_ARRAY, 0);
        if (reply) {
            reply->oversize = 1;
        }

        return reply;
    }

    reader->elements += (size_t) n;

    size = (size_t) n * sizeof(ngx_convotic_resp_t *);

    reply = ngx_convotic_resp_add(task, NGX_CONVOTIC_RESP_ARRAY, size);
    if (reply == NULL) {
        return NULL;
    }

    reply->elts = (ngx_convotic_resp_t **)
                      ((u_char *) reply + sizeof(ngx_convotic_resp_t));
    reply->nelts = (size_t) n;

    ngx_memzero(reply->elts, size);

    return reply;
}


static void *
ngx_convotic_resp_create_integer(const redisReadTask *task, long long value)
{
    ngx_convotic_resp_t  *reply;

    if (ngx_convotic_resp_in_oversize(task)) {
        return (void *) &ngx_convotic_resp_skipped;
    }

    reply = ngx_convotic_resp_add(task, NGX_CONVOTIC_RESP_INTEGER, 0);
    if (reply) {
        reply->integer = value;
    }

    return reply;
}


static void *
ngx_convotic_resp_create_nil(const redisReadTask *task)
{
    if (ngx_convotic_resp_in_oversize(task)) {
        return (void *) &ngx_convotic_resp_skipped;
    }

    return ngx_convotic_resp_add(task, NGX_CONVOTIC_RESP_NIL, 0);
}


#if (HIREDIS_MAJOR > 0)

static void *
ngx_convotic_resp_create_double(const redisReadTask *task, double value,
    char *data, size_t len)
{
    return NULL;
}


static void *
ngx_convotic_resp_create_bool(const redisReadTask *task, int value)
{
    return NULL;
}

#endif


static void
ngx_convotic_resp_free_object(void *object)
{
    ngx_convotic_resp_free(object);
}


static ngx_uint_t
ngx_convotic_resp_in_oversize(const redisReadTask *task)
{
    ngx_convotic_resp_t  *parent;

    if (task->parent == NULL) {
        return 0;
    }

    parent = task->parent->obj;

    return parent->oversize;
}


static ngx_uint_t
ngx_convotic_resp_too_deep(const redisReadTask *task)
{
    ngx_uint_t  depth;

    for (depth = 0; task; task = task->parent) {

        if (++depth > NGX_CONVOTIC_RESP_DEPTH) {
            return 1;
        }
    }

    return 0;
}


/*
 * A new node, linked into its parent; what follows it in memory is its own.
 * NULL makes hiredis give up on the stream.
 */

static ngx_convotic_resp_t *
ngx_convotic_resp_add(const redisReadTask *task,
    ngx_convotic_resp_type_e type, size_t extra)
{
    ngx_convotic_resp_t         *reply, *parent;
    ngx_convotic_resp_reader_t  *reader;

    reader = task->privdata;

    reply = ngx_alloc(sizeof(ngx_convotic_resp_t) + extra, reader->log);
    if (reply == NULL) {
        reader->exhausted = 1;
        return NULL;
    }

    ngx_memzero(reply, sizeof(ngx_convotic_resp_t));
    reply->type = type;

    if (task->parent) {
        parent = task->parent->obj;
        parent->elts[task->idx] = reply;
    }

    return reply;
}

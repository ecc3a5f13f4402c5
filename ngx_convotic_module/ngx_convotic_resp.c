
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

#include "ngx_convotic_resp.h"


/* elements of one reply, nested ones included */
#define NGX_CONVOTIC_RESP_ELEMENTS  4096

/*
 * A line is searched for its end again with each feed; a longer one than
 * this is no reply of Redis's.
 */
#define NGX_CONVOTIC_RESP_LINE      4096


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
    ngx_log_t                  *log;
};


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
static ngx_convotic_resp_t *ngx_convotic_resp_add(const redisReadTask *task,
    ngx_convotic_resp_type_e type, size_t extra);


ngx_convotic_resp_reader_t *
ngx_convotic_resp_create(size_t max, ngx_log_t *log)
{
    ngx_convotic_resp_reader_t  *reader;

    reader = ngx_calloc(sizeof(ngx_convotic_resp_reader_t), log);
    if (reader == NULL) {
        return NULL;
    }

    reader->max = max;
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
        return NGX_ERROR;
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


ngx_int_t
ngx_convotic_resp_encode(ngx_uint_t argc, ngx_str_t *argv,
    ngx_str_t *command)
{
    char        *target;
    size_t       lens[NGX_CONVOTIC_RESP_ARGS];
    long long    len;
    ngx_uint_t   i;
    const char  *args[NGX_CONVOTIC_RESP_ARGS];

    for (i = 0; i < argc && i < NGX_CONVOTIC_RESP_ARGS; i++) {
        args[i] = (char *) argv[i].data;
        lens[i] = argv[i].len;
    }

    len = redisFormatCommandArgv(&target, (int) i, args, lens);
    if (len < 0) {
        return NGX_ERROR;
    }

    command->data = (u_char *) target;
    command->len = (size_t) len;

    return NGX_OK;
}


void
ngx_convotic_resp_release(ngx_str_t *command)
{
    redisFreeCommand((char *) command->data);
    ngx_str_null(command);
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

    if (task->parent == NULL) {
        reader->elements = 0;
    }

    /* all that were announced, for each has its place from now on */

    if (task->type != REDIS_REPLY_ARRAY
        || (size_t) n > NGX_CONVOTIC_RESP_ELEMENTS - reader->elements)
    {
        return NULL;
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

    reply = ngx_convotic_resp_add(task, NGX_CONVOTIC_RESP_INTEGER, 0);
    if (reply) {
        reply->integer = value;
    }

    return reply;
}


static void *
ngx_convotic_resp_create_nil(const redisReadTask *task)
{
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


/*
 * Owns what is asked of a real Redis: whether the script does the same there
 * as in the Lua of the simulation, and whether it counts by the server's own
 * clock.
 */


/* nginx's headers first: they say what the system's are to declare */

#include "ngx_convotic_leases.h"

#include <stdarg.h>
#include <time.h>

#include <hiredis/hiredis.h>

#include "simulate.h"


#define SIMULATE_REDIS_KEY     "convotic:rate:v1:simulated"

/* the time that is given to the script in place of the server's */
#define SIMULATE_REDIS_TIME    "redis.call('TIME')"
#define SIMULATE_REDIS_GIVEN   "{ARGV[9], ARGV[10]}"

/* added to what is stored for some ms, so that it is there to be compared */
#define SIMULATE_REDIS_PX      "'PX', last - now)"
#define SIMULATE_REDIS_LONGER  "'PX', last - now + 3600000)"
#define SIMULATE_REDIS_HOUR    3600000

#define SIMULATE_REDIS_NODES   4
#define SIMULATE_REDIS_LIMIT   100
#define SIMULATE_REDIS_WINDOW  "400"    /* ms */
#define SIMULATE_REDIS_WINDOWS 4


typedef struct {
    ngx_convotic_zone_t         zone;
    ngx_convotic_coherence_t    coherence;
    ngx_convotic_tables_t       tables;
    uint64_t                    window;
} simulate_redis_node_t;


static redisContext          *simulate_redis;
static char                   simulate_redis_script[8192];

static simulate_redis_node_t  simulate_redis_nodes[SIMULATE_REDIS_NODES];


static ngx_int_t simulate_redis_replace(const char *from, const char *to);


ngx_int_t
simulate_redis_open(const char *path)
{
    simulate_redis = redisConnectUnix(path);

    if (simulate_redis == NULL || simulate_redis->err) {
        printf("no Redis at %s\n", path);
        return NGX_ERROR;
    }

    if (ngx_convotic_leases_script.len >= sizeof(simulate_redis_script)) {
        printf("the script is too long\n");
        return NGX_ERROR;
    }

    ngx_memcpy(simulate_redis_script, ngx_convotic_leases_script.data,
               ngx_convotic_leases_script.len);

    if (simulate_redis_replace(SIMULATE_REDIS_TIME, SIMULATE_REDIS_GIVEN)
        != NGX_OK
        || simulate_redis_replace(SIMULATE_REDIS_PX, SIMULATE_REDIS_LONGER)
           != NGX_OK)
    {
        printf("the script is not the one that is known here\n");
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
simulate_redis_replace(const char *from, const char *to)
{
    char    *p;
    size_t   tail;

    p = strstr(simulate_redis_script, from);

    if (p == NULL
        || strlen(simulate_redis_script) + strlen(to)
           >= sizeof(simulate_redis_script))
    {
        return NGX_ERROR;
    }

    tail = strlen(p + strlen(from)) + 1;

    ngx_memmove(p + strlen(to), p + strlen(from), tail);
    ngx_memcpy(p, to, strlen(to));

    return NGX_OK;
}


void
simulate_redis_close(void)
{
    if (simulate_redis) {
        redisFree(simulate_redis);
        simulate_redis = NULL;
    }
}


/* as the module's own reader would have it; the reply's memory */

static ngx_int_t
simulate_redis_convert(redisReply *reply, ngx_convotic_resp_t *to,
    ngx_convotic_resp_t *elts, ngx_convotic_resp_t **list, size_t n)
{
    size_t  i;

    if (reply == NULL || reply->type != REDIS_REPLY_ARRAY
        || reply->elements != n)
    {
        printf("Redis: %s\n", (reply && reply->str) ? reply->str
                                                    : "no answer");
        return NGX_ERROR;
    }

    for (i = 0; i < n; i++) {
        list[i] = &elts[i];

        if (reply->element[i]->type == REDIS_REPLY_INTEGER) {
            elts[i].type = NGX_CONVOTIC_RESP_INTEGER;
            elts[i].integer = reply->element[i]->integer;

        } else {
            elts[i].type = NGX_CONVOTIC_RESP_STRING;
            elts[i].str.data = (u_char *) reply->element[i]->str;
            elts[i].str.len = reply->element[i]->len;
        }
    }

    to->type = NGX_CONVOTIC_RESP_ARRAY;
    to->nelts = n;
    to->elts = list;

    return NGX_OK;
}


static redisReply *
simulate_redis_eval(const char *script, size_t script_len, ngx_str_t *argv,
    ngx_uint_t argc)
{
    size_t       len[4 + NGX_CONVOTIC_LEASES_ARGC + 2];
    ngx_uint_t   i;
    const char  *args[4 + NGX_CONVOTIC_LEASES_ARGC + 2];

    args[0] = "EVAL";
    args[1] = script;
    args[2] = "1";
    args[3] = SIMULATE_REDIS_KEY;

    for (i = 0; i < 4; i++) {
        len[i] = (i == 1) ? script_len : strlen(args[i]);
    }

    for (i = 0; i < argc; i++) {
        args[4 + i] = (char *) argv[i].data;
        len[4 + i] = argv[i].len;
    }

    return redisCommandArgv(simulate_redis, 4 + argc, args, len);
}


ngx_int_t
simulate_redis_same(int64_t us, simulate_value_t *before, ngx_str_t *argv,
    ngx_convotic_resp_t *reply, simulate_value_t *after)
{
    char                  seconds[24], rest[24];
    ngx_int_t             rc;
    ngx_str_t             args[NGX_CONVOTIC_LEASES_ARGC + 2];
    long long             ms;
    ngx_uint_t            i;
    redisReply           *r, *value, *ttl;
    ngx_convotic_resp_t   told, elts[5], *list[5];

    if (simulate_redis == NULL) {
        return NGX_OK;
    }

    freeReplyObject(redisCommand(simulate_redis, "DEL " SIMULATE_REDIS_KEY));

    if (before->len && before->expires > us / 1000) {
        freeReplyObject((before->data[0] == 'W')
                        ? redisCommand(simulate_redis,
                                       "RPUSH " SIMULATE_REDIS_KEY " 1")
                        : redisCommand(simulate_redis,
                                       "SET " SIMULATE_REDIS_KEY " %b",
                                       before->data, before->len));
    }

    for (i = 0; i < NGX_CONVOTIC_LEASES_ARGC; i++) {
        args[i] = argv[i];
    }

    args[i].data = (u_char *) seconds;
    args[i].len = sprintf(seconds, "%ld", us / 1000000);
    args[i + 1].data = (u_char *) rest;
    args[i + 1].len = sprintf(rest, "%ld", us % 1000000);

    r = simulate_redis_eval(simulate_redis_script,
                            strlen(simulate_redis_script), args, i + 2);

    rc = simulate_redis_convert(r, &told, elts, list, 5);

    for (i = 0; rc == NGX_OK && i < 5; i++) {
        if (list[i]->type != reply->elts[i]->type
            || (list[i]->type == NGX_CONVOTIC_RESP_INTEGER
                && list[i]->integer != reply->elts[i]->integer)
            || (list[i]->type == NGX_CONVOTIC_RESP_STRING
                && (list[i]->str.len != reply->elts[i]->str.len
                    || ngx_memcmp(list[i]->str.data, reply->elts[i]->str.data,
                                  list[i]->str.len)
                       != 0)))
        {
            rc = NGX_ERROR;
        }
    }

    if (r) {
        freeReplyObject(r);
    }

    value = redisCommand(simulate_redis, "GET " SIMULATE_REDIS_KEY);
    ttl = redisCommand(simulate_redis, "PTTL " SIMULATE_REDIS_KEY);

    if (value == NULL || ttl == NULL || value->type != REDIS_REPLY_STRING
        || (size_t) value->len != after->len
        || ngx_memcmp(value->str, after->data, after->len) != 0)
    {
        rc = NGX_ERROR;

    } else {
        ms = after->expires - us / 1000 + SIMULATE_REDIS_HOUR;

        /* the server's own time goes on meanwhile */

        if (ttl->integer > ms || ttl->integer < ms - 60000) {
            rc = NGX_ERROR;
        }
    }

    if (value) {
        freeReplyObject(value);
    }

    if (ttl) {
        freeReplyObject(ttl);
    }

    return rc;
}


static void
simulate_redis_clock(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    ngx_current_msec = ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}


/* NGX_ERROR: Redis answered something else */

static ngx_int_t
simulate_redis_ask(simulate_redis_node_t *node, const u_char *digest)
{
    ngx_int_t                    rc;
    ngx_str_t                    argv[NGX_CONVOTIC_LEASES_ARGC], run_id;
    u_char                       digits[NGX_CONVOTIC_LEASES_DIGITS];
    redisReply                  *r;
    ngx_convotic_resp_t          reply, elts[5], *list[5];
    ngx_convotic_leases_ask_t    ask;
    ngx_convotic_leases_told_t   told;

    rc = ngx_convotic_leases_claim(&node->zone, digest, SIMULATE_REDIS_LIMIT,
                                   &ask);
    if (rc != NGX_OK) {
        return (rc == NGX_AGAIN) ? NGX_OK : NGX_ERROR;
    }

    ngx_str_set(&run_id, "0123456789abcdef");
    ngx_convotic_leases_arguments(&ask, &run_id, digits, argv);
    ngx_str_set(&argv[0], SIMULATE_REDIS_WINDOW);

    r = simulate_redis_eval((char *) ngx_convotic_leases_script.data,
                            ngx_convotic_leases_script.len, argv,
                            NGX_CONVOTIC_LEASES_ARGC);

    rc = simulate_redis_convert(r, &reply, elts, list, 5);

    if (rc == NGX_OK) {
        rc = ngx_convotic_leases_parse(&ask, &reply, &told);
    }

    if (rc == NGX_OK) {
        simulate_redis_clock();
        node->window = told.window;
        ngx_convotic_leases_bank(&node->zone, &ask, &told);
    }

    if (r) {
        freeReplyObject(r);
    }

    return rc;
}


int
simulate_redis_real(const char *path)
{
    u_char                     digest[NGX_CONVOTIC_DIGEST_LEN];
    uint64_t                   window, admitted, refused, questions;
    uint64_t                   windows, all;
    ngx_uint_t                 i;
    simulate_redis_node_t     *node;
    ngx_convotic_leases_e      rc;
    ngx_convotic_allowance_t   allowance;

    if (simulate_redis_open(path) != NGX_OK) {
        return 1;
    }

    freeReplyObject(redisCommand(simulate_redis, "DEL " SIMULATE_REDIS_KEY));

    ngx_memset(digest, 'd', NGX_CONVOTIC_DIGEST_LEN);
    simulate_redis_clock();

    for (i = 0; i < SIMULATE_REDIS_NODES; i++) {
        node = &simulate_redis_nodes[i];
        node->zone.coherence = &node->coherence;
        node->zone.tables = &node->tables;

        if (ngx_convotic_table_create(&node->tables.leases, NULL, 4096,
                                      ngx_convotic_leases_value())
            != NGX_OK)
        {
            return 1;
        }
    }

    window = admitted = refused = questions = windows = all = 0;

    while (windows <= SIMULATE_REDIS_WINDOWS) {
        node = &simulate_redis_nodes[refused++ % SIMULATE_REDIS_NODES];

        simulate_redis_clock();
        rc = ngx_convotic_leases_spend(&node->zone, digest,
                                       SIMULATE_REDIS_LIMIT, &allowance);

        if (rc == NGX_CONVOTIC_LEASES_OVER) {
            continue;
        }

        if (rc != NGX_CONVOTIC_LEASES_SPENT) {
            questions++;

            if (simulate_redis_ask(node, digest) != NGX_OK) {
                printf("Redis answered something else\n");
                return 1;
            }
        }

        /* the first is the one that was open; the last one is not over */

        if (node->window > window) {
            if (window && admitted != SIMULATE_REDIS_LIMIT) {
                printf("%lu admitted in window %lu\n", admitted, windows);
                return 1;
            }

            window = node->window;
            admitted = 0;
            windows++;
        }

        if (rc == NGX_CONVOTIC_LEASES_SPENT
            || rc == NGX_CONVOTIC_LEASES_LOW)
        {
            admitted++;
            all++;
        }
    }

    for (i = 0; i < SIMULATE_REDIS_NODES; i++) {
        free(simulate_redis_nodes[i].tables.leases.entries);
    }

    simulate_redis_close();

    printf("ok real: %lu windows of " SIMULATE_REDIS_WINDOW " ms, %lu "
           "admitted, %lu questions\n", windows - 1, all, questions);

    return 0;
}

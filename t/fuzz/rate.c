
/*
 * The counting of requests.  The first line of an input says what follows:
 *
 * "reply": bytes that Redis answers the script of leases with.
 *
 * "value": what a key of rates holds; the script's reading of it is to be
 * that of convoticctl.
 *
 * "script": such a value in a line, and then the script's arguments but for
 * the window's length, in a line each.  The script runs in Lua, as in Redis.
 *
 * "nodes": a game of two gateways and a server, a letter a move; see
 * fuzz_rate_move().  While no value is lost, no more is admitted in a window
 * than its limit; with one gateway and no mishap, exactly that, and each
 * request is told how many remain.
 */


#include "fuzz.h"

#include <lua.h>
#include <lualib.h>
#include <lauxlib.h>

#include "ngx_convotic_resp.h"
#include "ngx_convotic_leases.h"
#include "window.h"
#include "zone.h"


#define FUZZ_RATE_VALUE      512
#define FUZZ_RATE_NODES      2
#define FUZZ_RATE_ASKS       2       /* of a node, under way */
#define FUZZ_RATE_MOVES      4000
#define FUZZ_RATE_MAX        0x7fffffff
#define FUZZ_RATE_TICK       10      /* ms, as in leases.c */

#define FUZZ_RATE_LUA        (16 * 1024 * 1024)
#define FUZZ_RATE_CLASSES    24      /* of sizes: 16 bytes, 32, 64 ... */


/* the server; times are ms */

typedef struct {
    char                        value[FUZZ_RATE_VALUE];
    size_t                      len;         /* 0: there is none */
    uint64_t                    expires;
    char                        run_id[17];
    ngx_uint_t                  starts;
} fuzz_rate_server_t;


typedef struct {
    ngx_convotic_leases_ask_t   ask;
    ngx_convotic_leases_told_t  told;
    ngx_uint_t                  asked;
    ngx_uint_t                  served;
} fuzz_rate_ask_t;


typedef struct {
    fuzz_zone_t                 shared;
    u_char                     *memory;
    fuzz_rate_ask_t             asks[FUZZ_RATE_ASKS];
} fuzz_rate_node_t;


typedef struct {
    fuzz_rate_node_t            nodes[FUZZ_RATE_NODES];
    ngx_uint_t                  limit;
    ngx_uint_t                  most;        /* of the limits in the window */
    uint64_t                    end;         /* of the window */
    uint64_t                    admitted;    /* in it, with a lease */
    unsigned                    lost:1;      /* a value, or the clock's time */
    unsigned                    alone:1;     /* one node, and no mishap */
} fuzz_rate_game_t;


static void fuzz_rate_reply(ngx_pool_t *pool, fuzz_input_t *in);
static int64_t fuzz_rate_number(ngx_convotic_resp_t *reply);
static void fuzz_rate_value(ngx_pool_t *pool, fuzz_input_t *in);
static void fuzz_rate_script(ngx_pool_t *pool, fuzz_input_t *in);
static void fuzz_rate_run(ngx_str_t *argv, ngx_convotic_leases_told_t *told);
static void fuzz_rate_push(ngx_str_t *argv, ngx_uint_t n, const char *name);
static ngx_uint_t fuzz_rate_told(ngx_convotic_leases_told_t *told);
static ngx_uint_t fuzz_rate_form(const char *value, size_t len);
static uint64_t fuzz_rate_now(void);
static int fuzz_rate_call(lua_State *lua);
static void *fuzz_rate_alloc(void *data, void *p, size_t size, size_t want);
static ngx_uint_t fuzz_rate_class(size_t size);
static void fuzz_rate_game(ngx_pool_t *pool, fuzz_input_t *in);
static void fuzz_rate_move(fuzz_rate_game_t *game, u_char move,
    fuzz_input_t *in);
static void fuzz_rate_pass(ngx_msec_t ms);
static void fuzz_rate_request(fuzz_rate_game_t *game, fuzz_rate_node_t *node);
static void fuzz_rate_admit(fuzz_rate_game_t *game,
    ngx_convotic_allowance_t *allowance);
static void fuzz_rate_borrow(fuzz_rate_game_t *game, fuzz_rate_node_t *node,
    ngx_uint_t share);
static void fuzz_rate_claim(fuzz_rate_game_t *game, fuzz_rate_node_t *node);
static void fuzz_rate_serve(fuzz_rate_game_t *game, fuzz_rate_node_t *node);
static void fuzz_rate_deliver(fuzz_rate_game_t *game, fuzz_rate_node_t *node);
static void fuzz_rate_fail(fuzz_rate_node_t *node);


/* a question that any lease is an answer to */
static ngx_convotic_leases_ask_t  fuzz_rate_any = { .want = FUZZ_RATE_MAX };

static lua_State           *fuzz_rate_lua;
static u_char              *fuzz_rate_lua_pos;
static u_char              *fuzz_rate_lua_last;
static void                *fuzz_rate_lua_free[FUZZ_RATE_CLASSES];
static fuzz_rate_server_t   fuzz_rate_server;
static fuzz_rate_game_t     fuzz_rate_played;
static size_t               fuzz_rate_memory;
static ngx_msec_t           fuzz_rate_began;

static const u_char         fuzz_rate_digest[NGX_CONVOTIC_DIGEST_LEN] = "key";


void
fuzz_init(ngx_pool_t *pool)
{
    lua_State   *lua;
    ngx_uint_t   i;

    fuzz_rate_lua_pos = malloc(FUZZ_RATE_LUA);
    fuzz_assert(fuzz_rate_lua_pos, "no memory");

    fuzz_rate_lua_last = fuzz_rate_lua_pos + FUZZ_RATE_LUA;

    lua = lua_newstate(fuzz_rate_alloc, NULL);
    fuzz_assert(lua, "no memory");

    luaL_openlibs(lua);

    lua_newtable(lua);
    lua_pushcfunction(lua, fuzz_rate_call);
    lua_setfield(lua, -2, "call");
    lua_pushcfunction(lua, fuzz_rate_call);
    lua_setfield(lua, -2, "pcall");
    lua_setglobal(lua, "redis");

    if (luaL_loadbuffer(lua, (char *) ngx_convotic_leases_script.data,
                        ngx_convotic_leases_script.len, "script")
        != 0)
    {
        fuzz_fail(__FILE__, __LINE__, lua_tostring(lua, -1));
    }

    lua_setglobal(lua, "script");

    fuzz_rate_lua = lua;
    fuzz_rate_began = ngx_current_msec;

    /* a set of entries for each node */

    fuzz_rate_memory = 8 * (ngx_convotic_leases_value() + 128);

    for (i = 0; i < FUZZ_RATE_NODES; i++) {
        fuzz_rate_played.nodes[i].memory = ngx_pcalloc(pool,
                                                       fuzz_rate_memory);
        fuzz_assert(fuzz_rate_played.nodes[i].memory, "no memory");
    }
}


void
fuzz_one(ngx_pool_t *pool, fuzz_input_t *in)
{
    ngx_str_t  how;

    ngx_memzero(&fuzz_rate_server, sizeof(fuzz_rate_server_t));
    ngx_memcpy(fuzz_rate_server.run_id, "5b0c1f00aabbccdd", 16);

    ngx_current_msec = fuzz_rate_began;

    how = fuzz_until(pool, in, '\n');

    if (fuzz_is(&how, "reply")) {
        fuzz_rate_reply(pool, in);

    } else if (fuzz_is(&how, "value")) {
        fuzz_rate_value(pool, in);

    } else if (fuzz_is(&how, "script")) {
        fuzz_rate_script(pool, in);

    } else {
        fuzz_rate_game(pool, in);
    }
}


static void
fuzz_rate_reply(ngx_pool_t *pool, fuzz_input_t *in)
{
    int64_t                      n[5];
    ngx_int_t                    rc;
    ngx_uint_t                   i, good;
    ngx_convotic_resp_t         *reply;
    ngx_convotic_leases_told_t   told;
    ngx_convotic_resp_reader_t  *reader;

    reader = ngx_convotic_resp_create(65536, 0, &fuzz_log);
    fuzz_assert(reader, "no memory");

    if (in->pos == in->last
        || ngx_convotic_resp_feed(reader, in->pos, in->last - in->pos)
           != NGX_OK
        || ngx_convotic_resp_next(reader, &reply) != NGX_OK)
    {
        ngx_convotic_resp_destroy(reader);
        return;
    }

    rc = ngx_convotic_leases_parse(&fuzz_rate_any, reply, &told);

    good = (reply->type == NGX_CONVOTIC_RESP_ARRAY && reply->nelts == 5);

    for (i = 0; good && i < 5; i++) {
        n[i] = fuzz_rate_number(reply->elts[i]);
        good = (n[i] >= 0);
    }

    good = good && n[0] > 0 && n[1] > 0 && n[1] <= 60000
           && n[2] <= 9999999999999
           && n[3] <= FUZZ_RATE_MAX && n[3] <= n[2];

    fuzz_assert(good == (rc == NGX_OK),
                "a reply of another form, or not of this one");

    if (good) {
        fuzz_assert(told.window == (uint64_t) n[0]
                    && told.rest == (ngx_msec_t) n[1]
                    && told.used == (uint64_t) n[2]
                    && told.granted == (ngx_uint_t) n[3]
                    && told.kept == (n[4] == 1), "another lease");
    }

    ngx_convotic_resp_free(reply);
    ngx_convotic_resp_destroy(reader);
}


/* below 0: it is none */

static int64_t
fuzz_rate_number(ngx_convotic_resp_t *reply)
{
    size_t    i;
    uint64_t  n;

    if (reply->type == NGX_CONVOTIC_RESP_INTEGER) {
        return reply->integer;
    }

    if (reply->type != NGX_CONVOTIC_RESP_STRING || !fuzz_digits(&reply->str)) {
        return -1;
    }

    for (n = 0, i = 0; i < reply->str.len; i++) {

        if (n > (NGX_MAX_OFF_T_VALUE - (reply->str.data[i] - '0')) / 10) {
            return -1;
        }

        n = n * 10 + (reply->str.data[i] - '0');
    }

    return (int64_t) n;
}


/* who knows nothing asks for 1: the answer shows what the script made of it */

static void
fuzz_rate_value(ngx_pool_t *pool, fuzz_input_t *in)
{
    char                        *value;
    size_t                       len;
    uint64_t                     id;
    window_t                     window;
    ngx_uint_t                   i, ctl;
    ngx_convotic_leases_told_t   told;

    static ngx_str_t  argv[NGX_CONVOTIC_LEASES_ARGC] = {
        ngx_string("60000"), ngx_string("1000000000"), ngx_string("1"),
        ngx_string("0"), ngx_string("0"), ngx_string("0"), ngx_string("0"),
        ngx_string("-")
    };

    len = in->last - in->pos;
    len = ngx_min(len, FUZZ_RATE_VALUE - 1);

    ngx_memcpy(fuzz_rate_server.value, in->pos, len);
    fuzz_rate_server.len = len;
    fuzz_rate_server.expires = fuzz_rate_now() + 1;

    value = malloc(len + 1);
    fuzz_assert(value, "no memory");

    ngx_memcpy(value, in->pos, len);
    value[len] = '\0';

    ctl = window_parse(value, len, &window);

    for (id = 0, i = 0; ctl && isdigit((u_char) value[i]); i++) {
        id = id * 10 + (value[i] - '0');
    }

    free(value);

    fuzz_rate_run(argv, &told);

    if (ctl && window.end > (int64_t) fuzz_rate_now()) {
        fuzz_assert(told.window == id, "convoticctl takes for a window what "
                                       "the script does not");
        fuzz_assert(told.used - told.granted == (uint64_t) window.leased,
                    "convoticctl reads another number");

    } else {
        fuzz_assert(told.window == fuzz_rate_now() * 1000,
                    "the script takes for a window what convoticctl does not");
    }
}


static void
fuzz_rate_script(ngx_pool_t *pool, fuzz_input_t *in)
{
    u_char                      *p;
    uint64_t                     n;
    ngx_str_t                    value, line, argv[NGX_CONVOTIC_LEASES_ARGC];
    ngx_uint_t                   i;
    fuzz_input_t                 number;
    ngx_convotic_leases_told_t   told;

    /* what a gateway may tell, at most; the limit and what is wanted: some */

    static const uint64_t  most[NGX_CONVOTIC_LEASES_ARGC] = {
        60000, NGX_CONVOTIC_RATE_MAX, NGX_CONVOTIC_RATE_MAX,
        NGX_MAX_OFF_T_VALUE, 1000000000000, 60000, 1000000000000, 0
    };

    value = fuzz_until(pool, in, '\n');

    value.len = ngx_min(value.len, FUZZ_RATE_VALUE - 1);

    ngx_memcpy(fuzz_rate_server.value, value.data, value.len);
    fuzz_rate_server.len = value.len;
    fuzz_rate_server.expires = fuzz_rate_now() + 1;

    ngx_str_set(&argv[0], "60000");

    for (i = 1; i < NGX_CONVOTIC_LEASES_ARGC - 1; i++) {
        line = fuzz_until(pool, in, '\n');

        number.pos = line.data;
        number.last = line.data + line.len;

        p = ngx_pnalloc(pool, NGX_INT64_LEN);
        fuzz_assert(p, "no memory");

        n = fuzz_number(&number, most[i]);
        n = ngx_max(n, (uint64_t) (i < 3));

        argv[i].data = p;
        p = ngx_sprintf(p, "%uL", n);
        argv[i].len = p - argv[i].data;
    }

    argv[i] = fuzz_until(pool, in, '\n');

    for (p = argv[i].data; p < argv[i].data + argv[i].len; p++) {
        *p = isalnum(*p) ? *p : '0';
    }

    argv[i].len = ngx_min(argv[i].len, 16);

    if (argv[i].len == 0) {
        ngx_str_set(&argv[i], "-");
    }

    fuzz_rate_run(argv, &told);
}


/* the script, and what holds for it whoever calls it */

static void
fuzz_rate_run(ngx_str_t *argv, ngx_convotic_leases_told_t *told)
{
    window_t     window;
    lua_State   *lua;
    ngx_str_t    key;
    ngx_uint_t   limit, want;

    ngx_str_set(&key, "convotic:rate:v1:00");

    if (fuzz_rate_now() >= fuzz_rate_server.expires) {
        fuzz_rate_server.len = 0;
    }

    fuzz_rate_push(&key, 1, "KEYS");
    fuzz_rate_push(argv, NGX_CONVOTIC_LEASES_ARGC, "ARGV");

    lua = fuzz_rate_lua;

    lua_getglobal(lua, "script");

    if (lua_pcall(lua, 0, 1, 0) != 0) {
        fuzz_fail(__FILE__, __LINE__, lua_tostring(lua, -1));
    }

    fuzz_assert(fuzz_rate_told(told), "an answer that is refused");

    lua_settop(lua, 0);

    fuzz_assert(fuzz_rate_form(fuzz_rate_server.value, fuzz_rate_server.len),
                "a value of another form");

    fuzz_rate_server.value[fuzz_rate_server.len] = '\0';

    fuzz_assert(window_parse(fuzz_rate_server.value, fuzz_rate_server.len,
                             &window),
                "a value that convoticctl does not know");
    fuzz_assert((uint64_t) window.end == fuzz_rate_server.expires
                && (uint64_t) window.leased == told->used
                && (uint64_t) window.end == fuzz_rate_now() + told->rest,
                "a value that is not what was answered");

    limit = ngx_atoi(argv[1].data, argv[1].len);
    want = ngx_atoi(argv[2].data, argv[2].len);

    fuzz_assert(told->granted <= want && told->granted <= limit,
                "more than was wanted");
    fuzz_assert(told->granted == 0 || told->used <= limit,
                "more than the limit");
    fuzz_assert(told->granted || told->used >= limit,
                "nothing, although there is something left");
    fuzz_assert(told->granted <= 1
                || told->granted <= (limit - (told->used - told->granted)) / 4,
                "more than a quarter of what is left");
    fuzz_assert(told->kept || told->granted <= 1,
                "more than one for who is new in the window");
}


static void
fuzz_rate_push(ngx_str_t *argv, ngx_uint_t n, const char *name)
{
    ngx_uint_t  i;

    lua_newtable(fuzz_rate_lua);

    for (i = 0; i < n; i++) {
        lua_pushlstring(fuzz_rate_lua, (char *) argv[i].data, argv[i].len);
        lua_rawseti(fuzz_rate_lua, -2, i + 1);
    }

    lua_setglobal(fuzz_rate_lua, name);
}


/* the table on the stack as Redis makes a reply of it, and what is read */

static ngx_uint_t
fuzz_rate_told(ngx_convotic_leases_told_t *told)
{
    size_t                len;
    lua_State            *lua;
    ngx_uint_t            i;
    ngx_convotic_resp_t   reply, elt[5], *elts[5];

    lua = fuzz_rate_lua;

    ngx_memzero(&reply, sizeof(ngx_convotic_resp_t));
    ngx_memzero(elt, sizeof(elt));

    reply.type = NGX_CONVOTIC_RESP_ARRAY;
    reply.nelts = 5;
    reply.elts = elts;

    for (i = 0; i < 5; i++) {
        elts[i] = &elt[i];

        lua_rawgeti(lua, 1, i + 1);

        if (lua_type(lua, -1) == LUA_TNUMBER) {
            elt[i].type = NGX_CONVOTIC_RESP_INTEGER;
            elt[i].integer = (int64_t) lua_tonumber(lua, -1);

        } else {
            elt[i].type = NGX_CONVOTIC_RESP_STRING;
            elt[i].str.data = (u_char *) lua_tolstring(lua, -1, &len);
            elt[i].str.len = len;
        }
    }

    return ngx_convotic_leases_parse(&fuzz_rate_any, &reply, told) == NGX_OK;
}


/* six words: digits, or "*" in the fourth; the last is whatever it is */

static ngx_uint_t
fuzz_rate_form(const char *value, size_t len)
{
    size_t       i;
    ngx_uint_t   n;

    for (n = 0, i = 0; i < len; i++) {

        if (value[i] == ' ') {
            n++;

        } else if (n == 5 ? isspace((u_char) value[i])
                          : !isdigit((u_char) value[i])
                            && (n != 3 || value[i] != '*'))
        {
            return 0;
        }
    }

    return n == 5;
}


static uint64_t
fuzz_rate_now(void)
{
    return (uint64_t) FUZZ_NOW * 1000 + (ngx_current_msec - fuzz_rate_began);
}


/* redis.call() of TIME, GET and SET */

static int
fuzz_rate_call(lua_State *lua)
{
    size_t       len;
    double       px;
    uint64_t     now;
    const char  *command, *value;

    now = fuzz_rate_now();
    command = lua_tostring(lua, 1);
    fuzz_assert(command, "a command that is no string");

    if (strcmp(command, "TIME") == 0) {
        lua_newtable(lua);
        lua_pushfstring(lua, "%d", (int) (now / 1000));
        lua_rawseti(lua, -2, 1);
        lua_pushfstring(lua, "%d", (int) (now % 1000 * 1000
                                          + fuzz_rate_server.starts % 1000));
        lua_rawseti(lua, -2, 2);
        return 1;
    }

    if (strcmp(command, "GET") == 0) {

        if (fuzz_rate_server.len == 0) {
            lua_pushboolean(lua, 0);

        } else {
            lua_pushlstring(lua, fuzz_rate_server.value,
                            fuzz_rate_server.len);
        }

        return 1;
    }

    fuzz_assert(strcmp(command, "SET") == 0 && lua_gettop(lua) == 5
                && strcmp(lua_tostring(lua, 4), "PX") == 0,
                "another command than the known");

    value = lua_tolstring(lua, 3, &len);
    px = lua_tonumber(lua, 5);

    fuzz_assert(px == (double) (int64_t) px && px >= 1 && px <= 60000,
                "an expiry that Redis refuses, or beyond a window");
    fuzz_assert(len < FUZZ_RATE_VALUE, "a value without bounds");

    ngx_memcpy(fuzz_rate_server.value, value, len);
    fuzz_rate_server.len = len;
    fuzz_rate_server.expires = now + (uint64_t) px;

    lua_pushboolean(lua, 1);

    return 1;
}


/*
 * Lua's memory.  What it takes and gives back is never the same within one
 * input, so that libFuzzer would look for leaks after each.
 */

static void *
fuzz_rate_alloc(void *data, void *p, size_t size, size_t want)
{
    void        *new;
    ngx_uint_t   was, is;

    was = fuzz_rate_class(size);
    is = fuzz_rate_class(want);

    if (p && want && was == is) {
        return p;
    }

    new = NULL;

    if (want) {
        new = fuzz_rate_lua_free[is];

        if (new) {
            ngx_memcpy(&fuzz_rate_lua_free[is], new, sizeof(void *));

        } else {
            fuzz_assert((size_t) (fuzz_rate_lua_last - fuzz_rate_lua_pos)
                        >= (size_t) 16 << is, "too little memory for Lua");
            new = fuzz_rate_lua_pos;
            fuzz_rate_lua_pos += (size_t) 16 << is;
        }
    }

    if (p) {
        if (new) {
            ngx_memcpy(new, p, ngx_min(size, want));
        }

        ngx_memcpy(p, &fuzz_rate_lua_free[was], sizeof(void *));
        fuzz_rate_lua_free[was] = p;
    }

    return new;
}


static ngx_uint_t
fuzz_rate_class(size_t size)
{
    ngx_uint_t  n;

    for (n = 0; ((size_t) 16 << n) < size; n++) { /* void */ }

    return n;
}


static void
fuzz_rate_game(ngx_pool_t *pool, fuzz_input_t *in)
{
    ngx_uint_t         i;
    fuzz_rate_node_t  *node;
    fuzz_rate_game_t  *game;

    game = &fuzz_rate_played;

    game->limit = fuzz_number(in, 100000);
    game->limit = ngx_max(game->limit, 1);
    game->most = game->limit;
    game->end = 0;
    game->admitted = 0;
    game->lost = 0;
    game->alone = 1;

    for (i = 0; i < FUZZ_RATE_NODES; i++) {
        node = &game->nodes[i];

        ngx_memzero(node->asks, sizeof(node->asks));

        fuzz_zone_start(&node->shared);
        fuzz_zone_table(&node->shared.tables.leases, node->memory,
                        fuzz_rate_memory, ngx_convotic_leases_value());
    }

    for (i = 0; i < FUZZ_RATE_MOVES && in->pos < in->last; i++) {
        fuzz_rate_move(game, fuzz_byte(in), in);
    }
}


/*
 * "a", "b": a request at one node or the other, whose question is answered at
 * once; "A", "B": a question that is only put; "0", "1": the server serves
 * it, and "c", "d": the answer comes, or "x", "y": it does not; "m", "n": a
 * request without a lease, on credit; "M", "N": whatever it has used; "r":
 * many requests, one after the other, at the first node; "t", "u", "v", "w":
 * 1 ms, 100, 1,000 and the next byte's seconds go by; "k": the server loses
 * all, and is another; "K": it is another with the same data; "l": another
 * limit, by the next byte; "f", "g": the record of the key has changed;
 * "e": an epoch ends.
 */

static void
fuzz_rate_move(fuzz_rate_game_t *game, u_char move, fuzz_input_t *in)
{
    ngx_uint_t         i;
    fuzz_rate_node_t  *first, *second;

    first = &game->nodes[0];
    second = &game->nodes[1];

    if (memchr("bABcdxymnMN0klfgeK", move, 18)) {
        game->alone = 0;
    }

    switch (move) {

    case 'a':
        fuzz_rate_request(game, first);
        break;

    case 'b':
        fuzz_rate_request(game, second);
        break;

    case 'r':
        for (i = 0; i < 100; i++) {
            fuzz_rate_request(game, first);
        }
        break;

    case 'A':
        fuzz_rate_claim(game, first);
        break;

    case 'B':
        fuzz_rate_claim(game, second);
        break;

    case '0':
        fuzz_rate_serve(game, first);
        break;

    case '1':
        fuzz_rate_serve(game, second);
        break;

    case 'c':
        fuzz_rate_deliver(game, first);
        break;

    case 'd':
        fuzz_rate_deliver(game, second);
        break;

    case 'x':
        fuzz_rate_fail(first);
        break;

    case 'y':
        fuzz_rate_fail(second);
        break;

    case 'm':
        fuzz_rate_borrow(game, first, ngx_max(game->limit / 4, 1));
        break;

    case 'n':
        fuzz_rate_borrow(game, second, ngx_max(game->limit / 4, 1));
        break;

    case 'M':
        fuzz_rate_borrow(game, first, NGX_CONVOTIC_LEASES_ANY);
        break;

    case 'N':
        fuzz_rate_borrow(game, second, NGX_CONVOTIC_LEASES_ANY);
        break;

    case 't':
        fuzz_rate_pass(1);
        break;

    case 'u':
        fuzz_rate_pass(100);
        break;

    case 'v':
        fuzz_rate_pass(1000);
        break;

    case 'w':
        fuzz_rate_pass((ngx_msec_t) fuzz_byte(in) * 1000);
        break;

    case 'k':
        fuzz_rate_server.len = 0;
        game->lost = 1;
        /* fall through */

    case 'K':
        fuzz_rate_server.starts++;
        fuzz_rate_server.run_id[0] = "0123456789abcdef"
                                     [fuzz_rate_server.starts % 16];
        break;

    case 'l':
        game->limit = fuzz_byte(in);
        game->limit = ngx_max(game->limit, 1);
        game->most = ngx_max(game->most, game->limit);
        break;

    case 'f':
        ngx_convotic_leases_doubt(&first->shared.zone, fuzz_rate_digest);
        break;

    case 'g':
        ngx_convotic_leases_doubt(&second->shared.zone, fuzz_rate_digest);
        break;

    case 'e':
        first->shared.coherence.epoch++;
        second->shared.coherence.epoch++;
        break;
    }
}


static void
fuzz_rate_pass(ngx_msec_t ms)
{
    ngx_current_msec += ms;
}


static void
fuzz_rate_request(fuzz_rate_game_t *game, fuzz_rate_node_t *node)
{
    ngx_uint_t                i, over;
    ngx_convotic_leases_e     found;
    ngx_convotic_allowance_t  allowance;

    for (i = 0; i < 2; i++) {

        found = ngx_convotic_leases_spend(&node->shared.zone, fuzz_rate_digest,
                                          game->limit, &allowance);

        if (found != NGX_CONVOTIC_LEASES_NONE) {
            fuzz_assert(allowance.rest > 0 && allowance.rest
                                       <= NGX_CONVOTIC_LEASES_WINDOW
                                          + FUZZ_RATE_TICK,
                        "a window of another length");
        }

        switch (found) {

        case NGX_CONVOTIC_LEASES_LOW:
        case NGX_CONVOTIC_LEASES_SPENT:
            fuzz_rate_admit(game, &allowance);

            if (found == NGX_CONVOTIC_LEASES_LOW) {
                fuzz_rate_claim(game, node);
                fuzz_rate_serve(game, node);
                fuzz_rate_deliver(game, node);
            }

            return;

        case NGX_CONVOTIC_LEASES_OVER:
            fuzz_assert(allowance.remaining == 0,
                        "refused, and something remains");

            if (game->alone) {
                over = (game->admitted == game->limit
                        || fuzz_rate_now() >= game->end);
                fuzz_assert(over, "refused before the limit");
            }

            return;

        default: /* NGX_CONVOTIC_LEASES_NONE */
            fuzz_assert(i == 0 || !game->alone,
                        "neither admitted nor refused");

            fuzz_rate_claim(game, node);
            fuzz_rate_serve(game, node);
            fuzz_rate_deliver(game, node);
        }
    }
}


static void
fuzz_rate_admit(fuzz_rate_game_t *game, ngx_convotic_allowance_t *allowance)
{
    game->admitted++;

    if (game->lost) {
        return;
    }

    fuzz_assert(fuzz_rate_now() < game->end, "admitted after the window");
    fuzz_assert(game->admitted <= game->most, "more than the limit");

    if (game->alone) {
        fuzz_assert(allowance->remaining == game->limit - game->admitted,
                    "another number remains");
    }

    fuzz_assert(allowance->remaining < game->limit, "too many remain");
}


static void
fuzz_rate_borrow(fuzz_rate_game_t *game, fuzz_rate_node_t *node,
    ngx_uint_t share)
{
    ngx_int_t                 rc;
    ngx_convotic_allowance_t  allowance;

    rc = ngx_convotic_leases_borrow(&node->shared.zone, fuzz_rate_digest,
                                    game->limit, share, &allowance);

    fuzz_assert(rc == NGX_OK || rc == NGX_ABORT
                || (rc == NGX_DECLINED && share != NGX_CONVOTIC_LEASES_ANY),
                "refused, although whatever was used is let pass");
    fuzz_assert(rc != NGX_ABORT || allowance.remaining == 0,
                "refused for the limit, and something remains");
    fuzz_assert(allowance.remaining < game->limit
                || (rc != NGX_OK && allowance.remaining <= game->limit),
                "too many remain");
    fuzz_assert(allowance.rest > 0
                && allowance.rest <= NGX_CONVOTIC_LEASES_WINDOW
                                     + FUZZ_RATE_TICK,
                "a window of another length");
}


static void
fuzz_rate_claim(fuzz_rate_game_t *game, fuzz_rate_node_t *node)
{
    ngx_int_t         rc;
    ngx_uint_t        i;
    fuzz_rate_ask_t  *ask;

    for (i = 0; i < FUZZ_RATE_ASKS; i++) {
        ask = &node->asks[i];

        if (ask->asked) {
            continue;
        }

        rc = ngx_convotic_leases_claim(&node->shared.zone, fuzz_rate_digest,
                                       game->limit, &ask->ask);
        if (rc != NGX_OK) {
            return;
        }

        ask->asked = 1;
        ask->served = 0;

        fuzz_assert(ask->ask.want >= 1
                    && ask->ask.rest <= NGX_CONVOTIC_LEASES_WINDOW
                                        + FUZZ_RATE_TICK,
                    "a question that asks for nothing");
        return;
    }
}


static void
fuzz_rate_serve(fuzz_rate_game_t *game, fuzz_rate_node_t *node)
{
    u_char            digits[NGX_CONVOTIC_LEASES_DIGITS];
    uint64_t          end;
    ngx_str_t         argv[NGX_CONVOTIC_LEASES_ARGC], run_id;
    ngx_uint_t        i;
    fuzz_rate_ask_t  *ask;

    for (i = 0; i < FUZZ_RATE_ASKS; i++) {
        ask = &node->asks[i];

        if (!ask->asked || ask->served) {
            continue;
        }

        run_id.data = (u_char *) fuzz_rate_server.run_id;
        run_id.len = 16;

        ngx_convotic_leases_arguments(&ask->ask, &run_id, digits, argv);

        fuzz_rate_run(argv, &ask->told);

        ask->served = 1;

        end = fuzz_rate_server.expires;

        if (end != game->end) {
            game->end = end;
            game->most = game->limit;
            game->admitted = 0;
        }
    }
}


static void
fuzz_rate_deliver(fuzz_rate_game_t *game, fuzz_rate_node_t *node)
{
    ngx_uint_t        i;
    fuzz_rate_ask_t  *ask;

    for (i = 0; i < FUZZ_RATE_ASKS; i++) {
        ask = &node->asks[i];

        if (ask->asked && ask->served) {
            ask->asked = 0;
            ngx_convotic_leases_bank(&node->shared.zone, &ask->ask,
                                     &ask->told);
        }
    }
}


static void
fuzz_rate_fail(fuzz_rate_node_t *node)
{
    ngx_uint_t        i;
    fuzz_rate_ask_t  *ask;

    for (i = 0; i < FUZZ_RATE_ASKS; i++) {
        ask = &node->asks[i];

        if (ask->asked) {
            ask->asked = 0;
            ngx_convotic_leases_fail(&node->shared.zone, &ask->ask);
            return;
        }
    }
}


/*
 * Owns the connection of a worker to a Redis server: its state, its timers,
 * the commands that wait for replies, and when to try again.
 *
 * Replies match slots in the order of a queue.  A cancelled slot stays in it
 * until its reply has come; a connection on which one did not come in time
 * is closed, for all that follows would be taken for somebody else's.
 *
 * The connection belongs to no request: its log and its pool are its own.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_zone.h"
#include "ngx_convotic_redis.h"


/* an attempt after a failure, with jitter against a herd of workers */
#define NGX_CONVOTIC_REDIS_RETRY_FIRST   100    /* to 200 ms */
#define NGX_CONVOTIC_REDIS_RETRY         700    /* to 1000 ms */
#define NGX_CONVOTIC_REDIS_RETRY_JITTER  300

/* a connection that was lost sooner than this has failed */
#define NGX_CONVOTIC_REDIS_LIFE_MIN      1000   /* ms */

/* how often the server is asked whether it is still what it was */
#define NGX_CONVOTIC_REDIS_CHECK         1000   /* ms */

/* the same error of a command is logged again after this */
#define NGX_CONVOTIC_REDIS_LOG_INTERVAL  60     /* s */

/* reads of a ready socket before others have their turn */
#define NGX_CONVOTIC_REDIS_READS         64

/* commands that the kernel has not taken yet, and the buffer that is kept */
#define NGX_CONVOTIC_REDIS_OUT_MAX       (64 * 1024 * 1024)
#define NGX_CONVOTIC_REDIS_OUT_KEEP      (256 * 1024)

#define NGX_CONVOTIC_REDIS_RUN_ID_LEN    64

/* as much of a password as gives it away */
#define NGX_CONVOTIC_REDIS_SECRET        6

/* of a reply's error: its first word, and what is logged of it */
#define NGX_CONVOTIC_REDIS_CODE_LEN      32
#define NGX_CONVOTIC_REDIS_TEXT_MAX      256


typedef enum {
    NGX_CONVOTIC_REDIS_IDLE = 0,
    NGX_CONVOTIC_REDIS_RESOLVING,
    NGX_CONVOTIC_REDIS_CONNECTING,
    NGX_CONVOTIC_REDIS_GREETING,         /* AUTH, SELECT, ROLE ... sent */
    NGX_CONVOTIC_REDIS_READY,
    NGX_CONVOTIC_REDIS_WAITING           /* for the next attempt */
} ngx_convotic_redis_state_e;


typedef enum {
    NGX_CONVOTIC_REDIS_SLOT_REQUEST,     /* somebody waits */
    NGX_CONVOTIC_REDIS_SLOT_NOBODY,      /* cancelled, or posted */
    NGX_CONVOTIC_REDIS_SLOT_OWN          /* ours; errors go to the handler */
} ngx_convotic_redis_slot_e;


struct ngx_convotic_redis_slot_s {
    ngx_queue_t                     queue;
    ngx_convotic_redis_slot_e       type;
    ngx_convotic_redis_handler_pt   handler;
    void                           *data;
    ngx_msec_t                      deadline;
    ngx_str_t                       command;     /* kept to send it again */
    ngx_uint_t                      attempts;
};


struct ngx_convotic_redis_s {
    /* read-only once nginx has started */

    ngx_convotic_redis_conf_t       conf;
    ngx_str_t                       name;        /* for logs */
    ngx_str_t                       host;        /* empty: an address */
    in_port_t                       port;
    ngx_addr_t                     *addrs;
    ngx_uint_t                      naddrs;
    ngx_convotic_zone_t            *zone;
    size_t                          reply_max;
    ngx_resolver_t                 *resolver;
    ngx_msec_t                      resolver_timeout;

    /* a worker's */

    ngx_convotic_redis_state_e      state;
    ngx_uint_t                      number;      /* of the connection */
    ngx_uint_t                      failures;    /* in a row; 0: trusted */
    ngx_uint_t                      retries;     /* since it last kept up */
    ngx_uint_t                      addr;        /* the next to be tried */
    ngx_connection_t               *connection;
    ngx_convotic_resp_reader_t     *reader;
    ngx_resolver_ctx_t             *resolve;
    ngx_msec_t                      ready_since;
    ngx_str_t                       run_id;
    u_char                          run_id_buf[NGX_CONVOTIC_REDIS_RUN_ID_LEN];

    ngx_queue_t                     sent;        /* in the order of replies */
    ngx_queue_t                     pending;     /* until READY */
    ngx_buf_t                       out;

    ngx_event_t                     flush;
    ngx_event_t                     timer;       /* connecting, or replies */
    ngx_event_t                     retry;
    ngx_event_t                     check;

    ngx_log_t                       log;
    ngx_pool_t                     *pool;        /* of the connection */
    u_char                          error[NGX_CONVOTIC_REDIS_CODE_LEN];
    time_t                          error_time;
};


static void ngx_convotic_redis_connect(ngx_convotic_redis_t *redis);
static void ngx_convotic_redis_open_configured(ngx_convotic_redis_t *redis);
static void ngx_convotic_redis_resolve(ngx_convotic_redis_t *redis);
static void ngx_convotic_redis_resolve_handler(ngx_resolver_ctx_t *ctx);
static void ngx_convotic_redis_open(ngx_convotic_redis_t *redis,
    struct sockaddr *sockaddr, socklen_t socklen);
static ngx_int_t ngx_convotic_redis_test_connect(ngx_connection_t *c);
static void ngx_convotic_redis_greet(ngx_convotic_redis_t *redis);
static void ngx_convotic_redis_greet_handler(void *data,
    ngx_convotic_resp_t *reply);
static void ngx_convotic_redis_info_handler(void *data,
    ngx_convotic_resp_t *reply);
static void ngx_convotic_redis_role_handler(void *data,
    ngx_convotic_resp_t *reply);
static void ngx_convotic_redis_ready_handler(void *data,
    ngx_convotic_resp_t *reply);
static void ngx_convotic_redis_own(ngx_convotic_redis_t *redis,
    const char *command, ngx_str_t *arg, ngx_str_t *arg2,
    ngx_convotic_redis_handler_pt handler);
static void ngx_convotic_redis_ask_role(ngx_convotic_redis_t *redis);
static ngx_convotic_redis_slot_t *ngx_convotic_redis_queue(
    ngx_convotic_redis_t *redis, ngx_uint_t argc, ngx_str_t *argv);
static ngx_int_t ngx_convotic_redis_write(ngx_convotic_redis_t *redis,
    ngx_convotic_redis_slot_t *slot);
static void ngx_convotic_redis_arm(ngx_convotic_redis_t *redis);
static void ngx_convotic_redis_flush_handler(ngx_event_t *ev);
static void ngx_convotic_redis_write_handler(ngx_event_t *wev);
static void ngx_convotic_redis_read_handler(ngx_event_t *rev);
static ngx_int_t ngx_convotic_redis_replies(ngx_convotic_redis_t *redis);
static void ngx_convotic_redis_deliver(ngx_convotic_redis_t *redis,
    ngx_convotic_redis_slot_t *slot, ngx_convotic_resp_t *reply);
static void ngx_convotic_redis_timer_handler(ngx_event_t *ev);
static void ngx_convotic_redis_retry_handler(ngx_event_t *ev);
static void ngx_convotic_redis_check_handler(ngx_event_t *ev);
static void ngx_convotic_redis_lost(ngx_convotic_redis_t *redis,
    const char *what);
static ngx_uint_t ngx_convotic_redis_kept_up(ngx_convotic_redis_t *redis);
static void ngx_convotic_redis_fail(ngx_convotic_redis_t *redis,
    const char *what);
static void ngx_convotic_redis_close(ngx_convotic_redis_t *redis);
static void ngx_convotic_redis_abandon(ngx_queue_t *queue);
static ngx_uint_t ngx_convotic_redis_repeats(ngx_str_t *text,
    ngx_str_t *password);
static void ngx_convotic_redis_log_reply(ngx_convotic_redis_t *redis,
    ngx_convotic_resp_t *reply);
static void ngx_convotic_redis_count(ngx_convotic_redis_t *redis,
    ngx_uint_t count);
static void ngx_convotic_redis_free_slot(ngx_convotic_redis_slot_t *slot);
static u_char *ngx_convotic_redis_log_handler(ngx_log_t *log, u_char *buf,
    size_t len);


ngx_convotic_redis_t *
ngx_convotic_redis_create(ngx_conf_t *cf, ngx_convotic_redis_conf_t *conf)
{
    u_char                *colon;
    ngx_str_t              host;
    ngx_url_t              u;
    ngx_convotic_redis_t  *redis;

    ngx_memzero(&u, sizeof(ngx_url_t));

    u.url = conf->url.address;
    u.default_port = 6379;

    if (ngx_parse_url(cf->pool, &u) != NGX_OK) {

        /* what looks like a port may be a password */

        host = u.url;
        colon = ngx_strlchr(host.data, host.data + host.len, ':');

        if (colon && host.data[0] != '['
            && ngx_strncmp(host.data, "unix:", 5) != 0)
        {
            host.len = colon - host.data;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "%s in the URL of the Redis server \"%V\"",
                           u.err ? u.err : "no memory", &host);
        return NULL;
    }

    redis = ngx_pcalloc(cf->pool, sizeof(ngx_convotic_redis_t));
    if (redis == NULL) {
        return NULL;
    }

    redis->conf = *conf;
    redis->addrs = u.addrs;
    redis->naddrs = u.naddrs;
    redis->port = u.port;

    redis->name.data = ngx_pnalloc(cf->pool, u.url.len + 1 + NGX_INT_T_LEN);
    if (redis->name.data == NULL) {
        return NULL;
    }

    redis->name.len = ngx_sprintf(redis->name.data, "%V/%ui", &u.url,
                                  conf->url.db)
                      - redis->name.data;

    if (u.family != AF_UNIX
        && ngx_inet_addr(u.host.data, u.host.len) == INADDR_NONE
        && u.host.data[0] != '[')
    {
        redis->host = u.host;
    }

    return redis;
}


void
ngx_convotic_redis_configure(ngx_convotic_redis_t *redis,
    ngx_convotic_zone_t *zone, size_t reply_max, ngx_resolver_t *resolver,
    ngx_msec_t resolver_timeout)
{
    redis->zone = zone;
    redis->reply_max = reply_max;

    /* nginx has one that can resolve nothing where none is configured */

    if (resolver && resolver->connections.nelts) {
        redis->resolver = resolver;
    }

    redis->resolver_timeout = resolver_timeout;
}


void
ngx_convotic_redis_start(ngx_convotic_redis_t *redis, ngx_cycle_t *cycle)
{
    redis->log = *cycle->log;
    redis->log.handler = ngx_convotic_redis_log_handler;
    redis->log.data = redis;
    redis->log.action = NULL;

    ngx_queue_init(&redis->sent);
    ngx_queue_init(&redis->pending);

    redis->run_id.data = redis->run_id_buf;

    redis->flush.handler = ngx_convotic_redis_flush_handler;
    redis->flush.data = redis;
    redis->flush.log = &redis->log;

    redis->timer.handler = ngx_convotic_redis_timer_handler;
    redis->timer.data = redis;
    redis->timer.log = &redis->log;

    redis->retry.handler = ngx_convotic_redis_retry_handler;
    redis->retry.data = redis;
    redis->retry.log = &redis->log;
    redis->retry.cancelable = 1;

    redis->check.handler = ngx_convotic_redis_check_handler;
    redis->check.data = redis;
    redis->check.log = &redis->log;
    redis->check.cancelable = 1;

    /* the time is that of the configuration's reading, perhaps long ago */

    ngx_time_update();

    ngx_convotic_redis_connect(redis);
}


void
ngx_convotic_redis_stop(ngx_convotic_redis_t *redis)
{
    if (redis->log.handler == NULL) {
        return;
    }

    ngx_convotic_redis_close(redis);

    if (redis->retry.timer_set) {
        ngx_del_timer(&redis->retry);
    }

    redis->state = NGX_CONVOTIC_REDIS_IDLE;

    ngx_convotic_redis_abandon(&redis->sent);
    ngx_convotic_redis_abandon(&redis->pending);

    if (redis->out.start) {
        ngx_free(redis->out.start);
        ngx_memzero(&redis->out, sizeof(ngx_buf_t));
    }
}


ngx_convotic_redis_slot_t *
ngx_convotic_redis_send(ngx_convotic_redis_t *redis, ngx_uint_t argc,
    ngx_str_t *argv, ngx_convotic_redis_handler_pt handler, void *data)
{
    ngx_convotic_redis_slot_t  *slot;

    slot = ngx_convotic_redis_queue(redis, argc, argv);

    if (slot) {
        slot->type = NGX_CONVOTIC_REDIS_SLOT_REQUEST;
        slot->handler = handler;
        slot->data = data;
    }

    return slot;
}


ngx_int_t
ngx_convotic_redis_post(ngx_convotic_redis_t *redis, ngx_uint_t argc,
    ngx_str_t *argv)
{
    ngx_convotic_redis_slot_t  *slot;

    slot = ngx_convotic_redis_queue(redis, argc, argv);

    if (slot == NULL) {
        return NGX_ERROR;
    }

    slot->type = NGX_CONVOTIC_REDIS_SLOT_NOBODY;

    return NGX_OK;
}


void
ngx_convotic_redis_cancel(ngx_convotic_redis_slot_t *slot)
{
    slot->type = NGX_CONVOTIC_REDIS_SLOT_NOBODY;
    slot->handler = NULL;
    slot->data = NULL;
}


void
ngx_convotic_redis_distrust(ngx_convotic_redis_t *redis)
{
    if (redis->state == NGX_CONVOTIC_REDIS_READY) {
        ngx_convotic_redis_fail(redis, "its replies do not match");
    }
}


/* the first of a kind, and once a minute: never once a request */

void
ngx_convotic_redis_complain(ngx_convotic_redis_t *redis, const char *code,
    const char *text)
{
    time_t  now;

    now = ngx_time();

    if (ngx_strcmp(redis->error, code) == 0
        && now - redis->error_time < NGX_CONVOTIC_REDIS_LOG_INTERVAL)
    {
        return;
    }

    (void) ngx_cpystrn(redis->error, (u_char *) code, sizeof(redis->error));
    redis->error_time = now;

    ngx_log_error(NGX_LOG_ERR, &redis->log, 0, "Redis cannot say: %s", text);
}


ngx_uint_t
ngx_convotic_redis_number(ngx_convotic_redis_t *redis)
{
    return redis->number;
}


ngx_str_t *
ngx_convotic_redis_run_id(ngx_convotic_redis_t *redis)
{
    return &redis->run_id;
}


static void
ngx_convotic_redis_connect(ngx_convotic_redis_t *redis)
{
    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, &redis->log, 0,
                   "convotic redis connect \"%V\"", &redis->name);

    /*
     * The addresses of the configuration serve until they have failed; with
     * a resolver, the name is asked for again then.
     */

    if (redis->failures && redis->resolver && redis->host.len) {
        ngx_convotic_redis_resolve(redis);
        return;
    }

    ngx_convotic_redis_open_configured(redis);
}


static void
ngx_convotic_redis_open_configured(ngx_convotic_redis_t *redis)
{
    ngx_addr_t  *addr;

    addr = &redis->addrs[redis->addr % redis->naddrs];

    ngx_convotic_redis_open(redis, addr->sockaddr, addr->socklen);
}


static void
ngx_convotic_redis_resolve(ngx_convotic_redis_t *redis)
{
    ngx_resolver_ctx_t  *ctx, temp;

    redis->log.action = "resolving the name of Redis";
    redis->state = NGX_CONVOTIC_REDIS_RESOLVING;

    ngx_memzero(&temp, sizeof(ngx_resolver_ctx_t));
    temp.name = redis->host;

    ctx = ngx_resolve_start(redis->resolver, &temp);

    if (ctx == NULL || ctx == NGX_NO_RESOLVER) {
        ngx_convotic_redis_fail(redis, "its name could not be resolved");
        return;
    }

    ctx->name = redis->host;
    ctx->handler = ngx_convotic_redis_resolve_handler;
    ctx->data = redis;
    ctx->timeout = redis->resolver_timeout;
    ctx->cancelable = 1;

    redis->resolve = ctx;

    if (ngx_resolve_name(ctx) != NGX_OK) {
        redis->resolve = NULL;
        ngx_convotic_redis_fail(redis, "its name could not be resolved");
    }
}


static void
ngx_convotic_redis_resolve_handler(ngx_resolver_ctx_t *ctx)
{
    ngx_sockaddr_t         sockaddr;
    socklen_t              socklen;
    ngx_uint_t             gone;
    ngx_resolver_addr_t   *addr;
    ngx_convotic_redis_t  *redis;

    redis = ctx->data;

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, &redis->log, 0,
                   "convotic redis resolved: %i", ctx->state);

    redis->resolve = NULL;

    if (ctx->state || ctx->naddrs == 0) {
        gone = (ctx->state == NGX_RESOLVE_NXDOMAIN);

        ngx_log_error(NGX_LOG_INFO, &redis->log, 0, "\"%V\": %s",
                      &redis->host, ngx_resolver_strerror(ctx->state));

        ngx_resolve_name_done(ctx);

        if (gone) {
            ngx_convotic_redis_fail(redis, "its name could not be resolved");
            return;
        }

        /* a name server that is away is no reason to give up the address */

        ngx_convotic_redis_open_configured(redis);
        return;
    }

    addr = &ctx->addrs[redis->addr % ctx->naddrs];

    socklen = addr->socklen;
    ngx_memcpy(&sockaddr, addr->sockaddr, socklen);
    ngx_inet_set_port(&sockaddr.sockaddr, redis->port);

    ngx_resolve_name_done(ctx);

    ngx_convotic_redis_open(redis, &sockaddr.sockaddr, socklen);
}


static void
ngx_convotic_redis_open(ngx_convotic_redis_t *redis,
    struct sockaddr *sockaddr, socklen_t socklen)
{
    ngx_int_t              rc;
    ngx_uint_t             level;
    ngx_connection_t      *c;
    ngx_peer_connection_t  pc;

    redis->log.action = "connecting to Redis";
    redis->state = NGX_CONVOTIC_REDIS_CONNECTING;

    /* covers the connection and the greeting */
    ngx_add_timer(&redis->timer, redis->conf.connect_timeout);

    redis->number++;
    redis->run_id.len = 0;

    redis->reader = ngx_convotic_resp_create(redis->reply_max, &redis->log);
    redis->pool = ngx_create_pool(1024, &redis->log);

    if (redis->reader == NULL || redis->pool == NULL) {
        ngx_convotic_redis_fail(redis, "no memory");
        return;
    }

    ngx_memzero(&pc, sizeof(ngx_peer_connection_t));

    pc.sockaddr = sockaddr;
    pc.socklen = socklen;
    pc.name = &redis->name;
    pc.get = ngx_event_get_peer;
    pc.log = &redis->log;
    pc.log_error = NGX_ERROR_INFO;

    /* the core logs each attempt; the first is enough */

    level = redis->log.log_level;

    if (redis->failures && level < NGX_LOG_INFO) {
        redis->log.log_level = NGX_LOG_ALERT;
    }

    rc = ngx_event_connect_peer(&pc);

    redis->log.log_level = level;
    redis->connection = pc.connection;

    if (rc != NGX_OK && rc != NGX_AGAIN) {
        ngx_convotic_redis_fail(redis, "cannot connect");
        return;
    }

    c = pc.connection;

    c->data = redis;
    c->pool = redis->pool;
    c->idle = 1;             /* nobody's: a worker may exit with it open */
    c->log = &redis->log;
    c->read->log = c->log;
    c->write->log = c->log;
    c->read->handler = ngx_convotic_redis_read_handler;
    c->write->handler = ngx_convotic_redis_write_handler;

    if (rc == NGX_OK) {
        ngx_convotic_redis_greet(redis);
    }
}


static ngx_int_t
ngx_convotic_redis_test_connect(ngx_connection_t *c)
{
    int        err;
    socklen_t  len;

#if (NGX_HAVE_KQUEUE)

    if (ngx_event_flags & NGX_USE_KQUEUE_EVENT)  {
        if (c->write->pending_eof || c->read->pending_eof) {
            return NGX_ERROR;
        }

        return NGX_OK;
    }

#endif

    err = 0;
    len = sizeof(int);

    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, (void *) &err, &len) == -1) {
        err = ngx_socket_errno;
    }

    if (err) {
        ngx_log_error(NGX_LOG_INFO, c->log, err, "connect() failed");
        return NGX_ERROR;
    }

    return NGX_OK;
}


/*
 * All that a connection needs before it may carry a request's commands is
 * sent at once.  No command is sent behind it before it has succeeded: a
 * database that could not be selected would be another one.
 */

static void
ngx_convotic_redis_greet(ngx_convotic_redis_t *redis)
{
    u_char               name[sizeof("ngx_convotic-") + NGX_INT64_LEN];
    u_char               db[NGX_INT_T_LEN];
    ngx_str_t            arg, setname;
    ngx_connection_t    *c;
    ngx_convotic_url_t  *url;

    c = redis->connection;
    url = &redis->conf.url;

    redis->log.action = "greeting Redis";
    redis->state = NGX_CONVOTIC_REDIS_GREETING;

    if (redis->addrs->sockaddr->sa_family != AF_UNIX
        && ngx_tcp_nodelay(c) != NGX_OK)
    {
        ngx_convotic_redis_fail(redis, "cannot set TCP_NODELAY");
        return;
    }

    if (url->user.len) {
        ngx_convotic_redis_own(redis, "AUTH", &url->user, &url->password,
                               ngx_convotic_redis_greet_handler);

    } else if (url->password.len) {
        ngx_convotic_redis_own(redis, "AUTH", &url->password, NULL,
                               ngx_convotic_redis_greet_handler);
    }

    if (url->db) {
        arg.data = db;
        arg.len = ngx_sprintf(db, "%ui", url->db) - db;

        ngx_convotic_redis_own(redis, "SELECT", &arg, NULL,
                               ngx_convotic_redis_greet_handler);
    }

    ngx_str_set(&setname, "SETNAME");
    arg.data = name;
    arg.len = ngx_sprintf(name, "ngx_convotic-%P", ngx_pid) - name;

    /* a name is a courtesy: a refusal does no harm */
    ngx_convotic_redis_own(redis, "CLIENT", &setname, &arg, NULL);

    if (redis->conf.role == NGX_CONVOTIC_REDIS_KEYS) {
        ngx_str_set(&arg, "server");
        ngx_convotic_redis_own(redis, "INFO", &arg, NULL,
                               ngx_convotic_redis_info_handler);
    }

    ngx_convotic_redis_ask_role(redis);

    /* one more, so that the last reply of the greeting is its end */
    ngx_convotic_redis_own(redis, "PING", NULL, NULL,
                           ngx_convotic_redis_ready_handler);

    if (redis->state == NGX_CONVOTIC_REDIS_GREETING) {
        ngx_convotic_redis_flush_handler(&redis->flush);
    }
}


static void
ngx_convotic_redis_greet_handler(void *data, ngx_convotic_resp_t *reply)
{
    ngx_convotic_redis_t  *redis = data;

    if (reply == NULL) {
        return;
    }

    if (reply->type != NGX_CONVOTIC_RESP_STATUS) {
        ngx_convotic_redis_log_reply(redis, reply);
        ngx_convotic_redis_fail(redis, "it refused the greeting");
    }
}


static void
ngx_convotic_redis_info_handler(void *data, ngx_convotic_resp_t *reply)
{
    u_char                *p, *last;
    ngx_convotic_redis_t  *redis = data;

    if (reply == NULL) {
        return;
    }

    if (reply->type != NGX_CONVOTIC_RESP_STRING) {
        ngx_convotic_redis_log_reply(redis, reply);
        ngx_convotic_redis_fail(redis, "it does not tell its run_id");
        return;
    }

    last = reply->str.data + reply->str.len;

    p = ngx_strnstr(reply->str.data, "\nrun_id:", reply->str.len);

    if (p) {
        p += sizeof("\nrun_id:") - 1;

        while (p < last && redis->run_id.len < NGX_CONVOTIC_REDIS_RUN_ID_LEN
               && ((*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z')))
        {
            redis->run_id_buf[redis->run_id.len++] = *p++;
        }
    }

    if (redis->run_id.len == 0) {
        ngx_convotic_redis_fail(redis, "it does not tell its run_id");
    }
}


static void
ngx_convotic_redis_role_handler(void *data, ngx_convotic_resp_t *reply)
{
    ngx_convotic_resp_t   *role;
    ngx_convotic_redis_t  *redis = data;

    if (reply == NULL) {
        return;
    }

    if (redis->conf.role != NGX_CONVOTIC_REDIS_KEYS) {
        return;
    }

    if (reply->type != NGX_CONVOTIC_RESP_ARRAY || reply->nelts == 0) {
        ngx_convotic_redis_log_reply(redis, reply);
        ngx_convotic_redis_fail(redis, "it does not tell its role");
        return;
    }

    role = reply->elts[0];

    if (role->type != NGX_CONVOTIC_RESP_STRING
        || role->str.len != 6
        || ngx_strncmp(role->str.data, "master", 6) != 0)
    {
        ngx_convotic_redis_fail(redis, "it is not a master");
    }
}


static void
ngx_convotic_redis_ready_handler(void *data, ngx_convotic_resp_t *reply)
{
    ngx_queue_t                *q;
    ngx_convotic_redis_t       *redis = data;
    ngx_convotic_redis_slot_t  *slot;

    if (reply == NULL) {
        return;
    }

    if (reply->type == NGX_CONVOTIC_RESP_ERROR) {
        ngx_convotic_redis_log_reply(redis, reply);
        ngx_convotic_redis_fail(redis, "it refused the greeting");
        return;
    }

    if (redis->timer.timer_set) {
        ngx_del_timer(&redis->timer);
    }

    redis->log.action = NULL;

    if (redis->failures) {
        ngx_log_error(NGX_LOG_NOTICE, &redis->log, 0, "Redis is back");
    }

    ngx_convotic_redis_count(redis, NGX_CONVOTIC_COUNT_KEYS_CONNECTIONS);

    redis->failures = 0;
    redis->state = NGX_CONVOTIC_REDIS_READY;
    redis->ready_since = ngx_current_msec;

    ngx_add_timer(&redis->check, NGX_CONVOTIC_REDIS_CHECK);

    while (!ngx_queue_empty(&redis->pending)) {

        q = ngx_queue_head(&redis->pending);
        ngx_queue_remove(q);

        slot = ngx_queue_data(q, ngx_convotic_redis_slot_t, queue);

        if (ngx_convotic_redis_write(redis, slot) != NGX_OK) {
            ngx_queue_insert_head(&redis->pending, q);
            ngx_convotic_redis_fail(redis, "no memory");
            return;
        }
    }
}


/* a command of our own; handler may be NULL */

static void
ngx_convotic_redis_own(ngx_convotic_redis_t *redis, const char *command,
    ngx_str_t *arg, ngx_str_t *arg2, ngx_convotic_redis_handler_pt handler)
{
    ngx_str_t                   argv[3];
    ngx_uint_t                  argc;
    ngx_convotic_redis_slot_t  *slot;

    if (redis->connection == NULL) {
        return;
    }

    argv[0].data = (u_char *) command;
    argv[0].len = ngx_strlen(command);
    argc = 1;

    if (arg) {
        argv[argc++] = *arg;
    }

    if (arg2) {
        argv[argc++] = *arg2;
    }

    slot = ngx_calloc(sizeof(ngx_convotic_redis_slot_t), &redis->log);

    if (slot == NULL) {
        ngx_convotic_redis_fail(redis, "no memory");
        return;
    }

    slot->type = NGX_CONVOTIC_REDIS_SLOT_OWN;
    slot->handler = handler;
    slot->data = redis;

    if (ngx_convotic_resp_encode(argc, argv, &slot->command) != NGX_OK
        || ngx_convotic_redis_write(redis, slot) != NGX_OK)
    {
        ngx_convotic_redis_free_slot(slot);
        ngx_convotic_redis_fail(redis, "no memory");
    }
}


/* also tells, by its reply, that the server is alive */

static void
ngx_convotic_redis_ask_role(ngx_convotic_redis_t *redis)
{
    const char  *command;

    command = (redis->conf.role == NGX_CONVOTIC_REDIS_KEYS) ? "ROLE" : "PING";

    ngx_convotic_redis_own(redis, command, NULL, NULL,
                           ngx_convotic_redis_role_handler);
}


/* a slot in one of the queues, to be given its type by the caller */

static ngx_convotic_redis_slot_t *
ngx_convotic_redis_queue(ngx_convotic_redis_t *redis, ngx_uint_t argc,
    ngx_str_t *argv)
{
    ngx_convotic_redis_slot_t  *slot;

    if (redis->state == NGX_CONVOTIC_REDIS_IDLE) {

        /* a worker that is exiting has closed it, or has never had it */

        if (redis->log.handler == NULL) {
            return NULL;
        }

        ngx_convotic_redis_connect(redis);
    }

    if (redis->failures) {
        ngx_convotic_redis_count(redis, NGX_CONVOTIC_COUNT_KEYS_REFUSED);
        return NULL;
    }

    slot = ngx_calloc(sizeof(ngx_convotic_redis_slot_t), &redis->log);
    if (slot == NULL) {
        return NULL;
    }

    if (ngx_convotic_resp_encode(argc, argv, &slot->command) != NGX_OK) {
        ngx_free(slot);
        return NULL;
    }

    if (redis->state != NGX_CONVOTIC_REDIS_READY) {
        ngx_queue_insert_tail(&redis->pending, &slot->queue);
        return slot;
    }

    if (ngx_convotic_redis_write(redis, slot) != NGX_OK) {
        ngx_convotic_redis_free_slot(slot);
        return NULL;
    }

    return slot;
}


/* NGX_ERROR: the slot is in no queue */

static ngx_int_t
ngx_convotic_redis_write(ngx_convotic_redis_t *redis,
    ngx_convotic_redis_slot_t *slot)
{
    size_t      used, size;
    u_char     *p;
    ngx_buf_t  *out;

    out = &redis->out;

    if ((size_t) (out->end - out->last) < slot->command.len) {

        used = out->last - out->pos;
        size = ngx_max(2 * (used + slot->command.len), 16384);

        if (size > NGX_CONVOTIC_REDIS_OUT_MAX) {
            return NGX_ERROR;
        }

        p = ngx_alloc(size, &redis->log);
        if (p == NULL) {
            return NGX_ERROR;
        }

        if (out->start) {
            ngx_memcpy(p, out->pos, used);
            ngx_free(out->start);
        }

        out->start = p;
        out->pos = p;
        out->last = p + used;
        out->end = p + size;
    }

    out->last = ngx_cpymem(out->last, slot->command.data, slot->command.len);

    slot->deadline = ngx_current_msec + redis->conf.timeout;
    slot->attempts++;

    if (slot->type != NGX_CONVOTIC_REDIS_SLOT_OWN) {
        ngx_convotic_redis_count(redis, NGX_CONVOTIC_COUNT_KEYS_COMMANDS);
    }

    ngx_queue_insert_tail(&redis->sent, &slot->queue);

    if (redis->state == NGX_CONVOTIC_REDIS_READY) {
        ngx_convotic_redis_arm(redis);

        if (!redis->flush.posted) {
            ngx_post_event(&redis->flush, &ngx_posted_events);
        }
    }

    return NGX_OK;
}


/*
 * One timer serves all slots, for they are in the order of their deadlines.
 * It is left to run when replies come and looks again when it fires.
 */

static void
ngx_convotic_redis_arm(ngx_convotic_redis_t *redis)
{
    ngx_queue_t                *q;
    ngx_msec_int_t              left;
    ngx_convotic_redis_slot_t  *slot;

    if (redis->timer.timer_set || ngx_queue_empty(&redis->sent)) {
        return;
    }

    q = ngx_queue_head(&redis->sent);
    slot = ngx_queue_data(q, ngx_convotic_redis_slot_t, queue);

    left = (ngx_msec_int_t) (slot->deadline - ngx_current_msec);

    ngx_add_timer(&redis->timer, left > 0 ? (ngx_msec_t) left : 1);
}


static void
ngx_convotic_redis_flush_handler(ngx_event_t *ev)
{
    ssize_t                n;
    ngx_buf_t             *out;
    ngx_connection_t      *c;
    ngx_convotic_redis_t  *redis;

    redis = ev->data;
    c = redis->connection;
    out = &redis->out;

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, ev->log, 0,
                   "convotic redis flush: %z", out->last - out->pos);

    if (c == NULL || !c->write->ready) {
        return;
    }

    while (out->pos < out->last) {

        n = c->send(c, out->pos, out->last - out->pos);

        if (n == NGX_AGAIN) {
            break;
        }

        if (n == NGX_ERROR) {
            ngx_convotic_redis_lost(redis, "cannot write");
            return;
        }

        out->pos += n;
    }

    if (out->pos == out->last) {
        out->pos = out->start;
        out->last = out->start;

        if (out->end - out->start > NGX_CONVOTIC_REDIS_OUT_KEEP) {
            ngx_free(out->start);
            ngx_memzero(out, sizeof(ngx_buf_t));
        }
    }

    if (ngx_handle_write_event(c->write, 0) != NGX_OK) {
        ngx_convotic_redis_fail(redis, "cannot write");
    }
}


static void
ngx_convotic_redis_write_handler(ngx_event_t *wev)
{
    ngx_connection_t      *c;
    ngx_convotic_redis_t  *redis;

    c = wev->data;
    redis = c->data;

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, wev->log, 0,
                   "convotic redis write handler");

    if (redis->state == NGX_CONVOTIC_REDIS_CONNECTING) {

        if (ngx_convotic_redis_test_connect(c) != NGX_OK) {
            ngx_convotic_redis_fail(redis, "cannot connect");
            return;
        }

        ngx_convotic_redis_greet(redis);
        return;
    }

    ngx_convotic_redis_flush_handler(&redis->flush);
}


static void
ngx_convotic_redis_read_handler(ngx_event_t *rev)
{
    u_char                 buf[NGX_CONVOTIC_RESP_FEED];
    ssize_t                n;
    ngx_uint_t             i;
    ngx_connection_t      *c;
    ngx_convotic_redis_t  *redis;

    c = rev->data;
    redis = c->data;

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, rev->log, 0,
                   "convotic redis read handler");

    if (c->close) {

        /* the worker exits; requests that still run may need the replies */

        c->close = 0;

        if (ngx_queue_empty(&redis->sent)
            && ngx_queue_empty(&redis->pending))
        {
            ngx_convotic_redis_close(redis);
            redis->state = NGX_CONVOTIC_REDIS_IDLE;
            return;
        }
    }

    if (redis->state == NGX_CONVOTIC_REDIS_CONNECTING) {

        if (ngx_convotic_redis_test_connect(c) != NGX_OK) {
            ngx_convotic_redis_fail(redis, "cannot connect");
        }

        return;
    }

    for (i = 0; i < NGX_CONVOTIC_REDIS_READS; i++) {

        n = c->recv(c, buf, sizeof(buf));

        if (n == NGX_AGAIN) {
            if (ngx_handle_read_event(rev, 0) != NGX_OK) {
                ngx_convotic_redis_fail(redis, "cannot read");
            }

            return;
        }

        if (n == NGX_ERROR || n == 0) {
            ngx_convotic_redis_lost(redis, "it closed the connection");
            return;
        }

        if (ngx_convotic_resp_feed(redis->reader, buf, n) != NGX_OK) {
            ngx_convotic_redis_fail(redis, "no memory");
            return;
        }

        if (ngx_convotic_redis_replies(redis) != NGX_OK) {
            return;
        }
    }

    ngx_post_event(rev, &ngx_posted_next_events);
}


/* NGX_DONE: the connection is gone */

static ngx_int_t
ngx_convotic_redis_replies(ngx_convotic_redis_t *redis)
{
    ngx_int_t                   rc;
    ngx_uint_t                  number;
    ngx_queue_t                *q;
    ngx_convotic_resp_t        *reply;
    ngx_convotic_redis_slot_t  *slot;

    number = redis->number;

    for ( ;; ) {

        rc = ngx_convotic_resp_next(redis->reader, &reply);

        if (rc == NGX_AGAIN) {

            /* an exiting worker does not wait for a timer without a reason */

            if (ngx_exiting && redis->timer.timer_set
                && ngx_queue_empty(&redis->sent)
                && ngx_queue_empty(&redis->pending))
            {
                ngx_del_timer(&redis->timer);
            }

            return NGX_OK;
        }

        if (rc == NGX_ERROR) {
            ngx_convotic_redis_fail(redis, "it does not speak RESP2");
            return NGX_DONE;
        }

        if (ngx_queue_empty(&redis->sent)) {

            if (reply->type == NGX_CONVOTIC_RESP_ERROR) {
                ngx_convotic_redis_log_reply(redis, reply);
            }

            ngx_convotic_resp_free(reply);
            ngx_convotic_redis_fail(redis, "it sent what nobody asked for");
            return NGX_DONE;
        }

        q = ngx_queue_head(&redis->sent);
        ngx_queue_remove(q);

        slot = ngx_queue_data(q, ngx_convotic_redis_slot_t, queue);

        ngx_convotic_redis_deliver(redis, slot, reply);

        ngx_convotic_redis_free_slot(slot);
        ngx_convotic_resp_free(reply);

        /* what was told may have led to the end of the connection */

        if (redis->connection == NULL || redis->number != number) {
            return NGX_DONE;
        }
    }
}


static void
ngx_convotic_redis_deliver(ngx_convotic_redis_t *redis,
    ngx_convotic_redis_slot_t *slot, ngx_convotic_resp_t *reply)
{
    ngx_uint_t  readonly;

    if (slot->type == NGX_CONVOTIC_REDIS_SLOT_OWN) {

        if (slot->handler) {
            slot->handler(slot->data, reply);

        } else if (reply->type == NGX_CONVOTIC_RESP_ERROR
                   && ngx_strncmp(reply->str.data, "ERR max number", 14) == 0)
        {
            /* said in place of the first reply, before it closes */
            ngx_convotic_redis_log_reply(redis, reply);
        }

        return;
    }

    ngx_convotic_zone_time(redis->zone,
                           (redis->conf.role == NGX_CONVOTIC_REDIS_KEYS)
                           ? NGX_CONVOTIC_TIME_KEYS
                           : NGX_CONVOTIC_TIME_BODIES,
                           ngx_current_msec
                           - (slot->deadline - redis->conf.timeout));

    readonly = 0;

    if (reply->type == NGX_CONVOTIC_RESP_ERROR) {
        ngx_convotic_redis_count(redis, NGX_CONVOTIC_COUNT_KEYS_ERRORS);
        ngx_convotic_redis_log_reply(redis, reply);

        /* a failover: the master is elsewhere, or will be here */

        readonly = (ngx_strncmp(reply->str.data, "READONLY", 8) == 0);
        reply = NULL;
    }

    if (slot->handler) {
        slot->handler(slot->data, reply);
    }

    if (readonly && redis->state == NGX_CONVOTIC_REDIS_READY) {
        ngx_convotic_redis_fail(redis, "it is not a master");
    }
}


static void
ngx_convotic_redis_timer_handler(ngx_event_t *ev)
{
    ngx_uint_t                  number;
    ngx_queue_t                *q;
    ngx_convotic_redis_t       *redis;
    ngx_convotic_redis_slot_t  *slot;

    redis = ev->data;

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, ev->log, 0,
                   "convotic redis timer, state %d", (int) redis->state);

    if (redis->state != NGX_CONVOTIC_REDIS_READY) {
        ngx_convotic_redis_fail(redis, "it did not greet in time");
        return;
    }

    if (ngx_queue_empty(&redis->sent)) {
        return;
    }

    /* a worker that was busy may be the one that is late */

    number = redis->number;

#if (NGX_HAVE_EPOLLRDHUP)

    /* not told yet by the event loop, the reply may have come all the same */

    redis->connection->read->available = -1;

#endif

    ngx_convotic_redis_read_handler(redis->connection->read);

    if (redis->number != number || redis->state != NGX_CONVOTIC_REDIS_READY
        || ngx_queue_empty(&redis->sent))
    {
        return;
    }

    q = ngx_queue_head(&redis->sent);
    slot = ngx_queue_data(q, ngx_convotic_redis_slot_t, queue);

    if ((ngx_msec_int_t) (slot->deadline - ngx_current_msec) > 0) {
        ngx_convotic_redis_arm(redis);
        return;
    }

    ngx_convotic_redis_fail(redis, "it did not answer in time");
}


static void
ngx_convotic_redis_retry_handler(ngx_event_t *ev)
{
    ngx_convotic_redis_t  *redis = ev->data;

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, ev->log, 0, "convotic redis retry");

    if (ngx_exiting) {
        redis->state = NGX_CONVOTIC_REDIS_IDLE;
        return;
    }

    ngx_convotic_redis_connect(redis);
}


static void
ngx_convotic_redis_check_handler(ngx_event_t *ev)
{
    ngx_convotic_redis_t  *redis = ev->data;

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, ev->log, 0, "convotic redis check");

    if (ngx_exiting || redis->state != NGX_CONVOTIC_REDIS_READY) {
        return;
    }

    ngx_convotic_redis_ask_role(redis);

    if (redis->state == NGX_CONVOTIC_REDIS_READY) {
        ngx_add_timer(ev, NGX_CONVOTIC_REDIS_CHECK);
    }
}


/*
 * The end of a connection that worked is no failure yet: a server closes idle
 * clients and restarts.  What was asked on it is asked once more, for every
 * command that is sent from here may be sent twice.
 */

static void
ngx_convotic_redis_lost(ngx_convotic_redis_t *redis, const char *what)
{
    ngx_queue_t                *q, again;
    ngx_convotic_redis_slot_t  *slot;

    if (!ngx_convotic_redis_kept_up(redis)) {
        ngx_convotic_redis_fail(redis, what);
        return;
    }

    ngx_log_error(NGX_LOG_INFO, &redis->log, 0,
                  "connection to Redis lost: %s", what);

    ngx_convotic_redis_close(redis);

    ngx_queue_init(&again);

    while (!ngx_queue_empty(&redis->sent)) {
        q = ngx_queue_head(&redis->sent);
        ngx_queue_remove(q);

        slot = ngx_queue_data(q, ngx_convotic_redis_slot_t, queue);

        if (slot->type == NGX_CONVOTIC_REDIS_SLOT_OWN
            || slot->handler == NULL)
        {
            ngx_convotic_redis_free_slot(slot);

        } else if (slot->attempts > 1) {
            ngx_queue_insert_tail(&again, q);

        } else {
            ngx_queue_insert_tail(&redis->pending, q);
        }
    }

    ngx_convotic_redis_connect(redis);

    ngx_convotic_redis_abandon(&again);
}


/* one that greets and then fails has not come back */

static ngx_uint_t
ngx_convotic_redis_kept_up(ngx_convotic_redis_t *redis)
{
    return redis->state == NGX_CONVOTIC_REDIS_READY
           && ngx_current_msec - redis->ready_since
              >= NGX_CONVOTIC_REDIS_LIFE_MIN;
}


/*
 * From here until the next greeting has succeeded, commands are refused at
 * once: nobody waits for a server that is known to be away.
 */

static void
ngx_convotic_redis_fail(ngx_convotic_redis_t *redis, const char *what)
{
    ngx_msec_t   delay;
    ngx_queue_t  waiting;

    ngx_convotic_redis_count(redis, NGX_CONVOTIC_COUNT_KEYS_FAILURES);

    if (redis->failures == 0) {
        ngx_log_error(NGX_LOG_ERR, &redis->log, 0, "Redis is away: %s", what);

    } else {
        ngx_log_error(NGX_LOG_INFO, &redis->log, 0,
                      "Redis is still away: %s", what);
    }

    if (ngx_convotic_redis_kept_up(redis)) {
        redis->retries = 0;
    }

    delay = redis->retries
            ? NGX_CONVOTIC_REDIS_RETRY
              + ngx_random() % NGX_CONVOTIC_REDIS_RETRY_JITTER
            : NGX_CONVOTIC_REDIS_RETRY_FIRST
              + ngx_random() % NGX_CONVOTIC_REDIS_RETRY_FIRST;

    ngx_convotic_redis_close(redis);

    redis->failures++;
    redis->retries++;
    redis->addr++;
    redis->state = NGX_CONVOTIC_REDIS_WAITING;
    redis->log.action = NULL;

    ngx_add_timer(&redis->retry, delay);

    ngx_queue_init(&waiting);

    if (!ngx_queue_empty(&redis->sent)) {
        ngx_queue_add(&waiting, &redis->sent);
        ngx_queue_init(&redis->sent);
    }

    if (!ngx_queue_empty(&redis->pending)) {
        ngx_queue_add(&waiting, &redis->pending);
        ngx_queue_init(&redis->pending);
    }

    ngx_convotic_redis_abandon(&waiting);
}


/* leaves the slots where they are */

static void
ngx_convotic_redis_close(ngx_convotic_redis_t *redis)
{
    if (redis->resolve) {
        ngx_resolve_name_done(redis->resolve);
        redis->resolve = NULL;
    }

    if (redis->connection) {
        ngx_close_connection(redis->connection);
        redis->connection = NULL;
    }

    if (redis->pool) {
        ngx_destroy_pool(redis->pool);
        redis->pool = NULL;
    }

    if (redis->reader) {
        ngx_convotic_resp_destroy(redis->reader);
        redis->reader = NULL;
    }

    if (redis->flush.posted) {
        ngx_delete_posted_event(&redis->flush);
    }

    if (redis->timer.timer_set) {
        ngx_del_timer(&redis->timer);
    }

    if (redis->check.timer_set) {
        ngx_del_timer(&redis->check);
    }

    redis->out.pos = redis->out.start;
    redis->out.last = redis->out.start;
}


/*
 * Tells everybody in the queue.  A handler may cancel slots that are still
 * in it, but none can be added: it is not one of the connection's.
 */

static void
ngx_convotic_redis_abandon(ngx_queue_t *queue)
{
    ngx_queue_t                *q;
    ngx_convotic_redis_slot_t  *slot;

    while (!ngx_queue_empty(queue)) {
        q = ngx_queue_head(queue);
        ngx_queue_remove(q);

        slot = ngx_queue_data(q, ngx_convotic_redis_slot_t, queue);

        if (slot->handler) {
            slot->handler(slot->data, NULL);
        }

        ngx_convotic_redis_free_slot(slot);
    }
}


/* whether a part of the password is in the text */

static ngx_uint_t
ngx_convotic_redis_repeats(ngx_str_t *text, ngx_str_t *password)
{
    size_t  i, len;

    len = ngx_min(password->len, NGX_CONVOTIC_REDIS_SECRET);

    for (i = 0; i + len <= text->len; i++) {
        if (ngx_memcmp(text->data + i, password->data, len) == 0) {
            return 1;
        }
    }

    return 0;
}


static void
ngx_convotic_redis_log_reply(ngx_convotic_redis_t *redis,
    ngx_convotic_resp_t *reply)
{
    u_char      code[NGX_CONVOTIC_REDIS_CODE_LEN];
    ngx_str_t   text;
    ngx_uint_t  i;

    if (reply->type != NGX_CONVOTIC_RESP_ERROR) {
        ngx_convotic_redis_complain(redis, "TYPE",
                                    "it answered with an unexpected type");
        return;
    }

    text = reply->str;
    text.len = ngx_min(text.len, NGX_CONVOTIC_REDIS_TEXT_MAX);

    for (i = 0; i < text.len; i++) {
        if (text.data[i] < ' ' || text.data[i] > '~') {
            text.data[i] = '?';
        }
    }

    text.data[text.len] = '\0';

    /* a server that does not know AUTH repeats what it was given */

    if (redis->conf.url.password.len
        && ngx_convotic_redis_repeats(&text, &redis->conf.url.password))
    {
        ngx_convotic_redis_complain(redis, "AUTH",
                                    "it does not know the command AUTH");
        return;
    }

    /* an error of Redis's begins with a word that tells its kind */

    for (i = 0; i < text.len && i < sizeof(code) - 1; i++) {
        if (text.data[i] == ' ') {
            break;
        }

        code[i] = text.data[i];
    }

    code[i] = '\0';

    ngx_convotic_redis_complain(redis, (char *) code, (char *) text.data);
}


/* count is one of NGX_CONVOTIC_COUNT_KEYS_..., also for the bodies' server */

static void
ngx_convotic_redis_count(ngx_convotic_redis_t *redis, ngx_uint_t count)
{
    if (redis->conf.role != NGX_CONVOTIC_REDIS_KEYS) {
        count += NGX_CONVOTIC_COUNT_BODIES_COMMANDS
                 - NGX_CONVOTIC_COUNT_KEYS_COMMANDS;
    }

    ngx_convotic_zone_count(redis->zone, count);
}


static void
ngx_convotic_redis_free_slot(ngx_convotic_redis_slot_t *slot)
{
    if (slot->command.data) {
        ngx_convotic_resp_release(&slot->command);
    }

    ngx_free(slot);
}


static u_char *
ngx_convotic_redis_log_handler(ngx_log_t *log, u_char *buf, size_t len)
{
    u_char                *p;
    ngx_convotic_redis_t  *redis = log->data;

    p = buf;

    if (log->action) {
        p = ngx_snprintf(p, len, " while %s", log->action);
        len -= p - buf;
    }

    return ngx_snprintf(p, len, ", redis: \"%V\"", &redis->name);
}


/*
 * Owns the directives, the configuration and the registration with nginx;
 * nothing of a request.  A configuration that could give one tenant's data to
 * another is refused here, with a sentence.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_url.h"
#include "ngx_convotic_digest.h"
#include "ngx_convotic_gzip.h"
#include "ngx_convotic_waiters.h"
#include "ngx_convotic_zone.h"
#include "ngx_convotic_redis.h"
#include "ngx_convotic_records.h"
#include "ngx_convotic_tracking.h"
#include "ngx_convotic_body.h"
#include "ngx_convotic_local.h"
#include "ngx_convotic_leases.h"
#include "ngx_convotic_addresses.h"
#include "ngx_convotic_flight.h"
#include "ngx_convotic_limit.h"
#include "ngx_convotic_cache.h"
#include "ngx_convotic_fill.h"
#include "ngx_convotic_filter.h"
#include "ngx_convotic_gate.h"
#include "ngx_convotic_variables.h"
#include "ngx_convotic_status.h"


#define NGX_CONVOTIC_CONNECT_TIMEOUT  100       /* ms */
#define NGX_CONVOTIC_TIMEOUT          50        /* ms */
#define NGX_CONVOTIC_PASSWORD_MAX     4096

/* the sum of two and of the time of day has few enough digits everywhere */
#define NGX_CONVOTIC_TIME_MAX         315360000000LL  /* ms, ten years */

#define NGX_CONVOTIC_LIMIT_MAX        1000000
#define NGX_CONVOTIC_BODY_MAX         (16 * 1024 * 1024)
#define NGX_CONVOTIC_ZONE_MIN         (1024 * 1024)

/* a body that was stored with a larger limit than today's is still read */
#define NGX_CONVOTIC_REPLY_MIN        (1024 * 1024)

#define NGX_CONVOTIC_ZONE_SIZE        (32 * 1024 * 1024)

#define NGX_CONVOTIC_LOCAL_SIZE       (16 * 1024 * 1024)
#define NGX_CONVOTIC_LOCAL_MIN        (64 * 1024)


static char *ngx_convotic_invalid(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_str_t *value, const char *allowed);
static char *ngx_convotic_enum(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_convotic_time(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_convotic_redis(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_convotic_redis_option(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_str_t *option, ngx_convotic_redis_conf_t *redis);
static char *ngx_convotic_password_file(ngx_conf_t *cf, ngx_str_t *name,
    ngx_str_t *password);
static char *ngx_convotic_redis_prefix(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_convotic_zone(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_convotic_cache_local(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_convotic_gzip(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_convotic_status(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_convotic_names(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_convotic_limit(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_convotic_per_minute(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_convotic_rate_fallback(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_convotic_cache_namespace(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_convotic_cache_max_size(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static ngx_uint_t ngx_convotic_is_visible(ngx_str_t *value);
static void *ngx_convotic_create_main_conf(ngx_conf_t *cf);
static char *ngx_convotic_init_main_conf(ngx_conf_t *cf, void *conf);
static void *ngx_convotic_create_loc_conf(ngx_conf_t *cf);
static char *ngx_convotic_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static char *ngx_convotic_merge_names(ngx_conf_t *cf,
    ngx_convotic_loc_conf_t *prev, ngx_convotic_loc_conf_t *conf);
static char *ngx_convotic_merge_platforms_error(ngx_conf_t *cf,
    ngx_convotic_loc_conf_t *conf);
static char *ngx_convotic_merge_texts(ngx_conf_t *cf,
    ngx_convotic_loc_conf_t *conf);
static char *ngx_convotic_merge_enabled(ngx_conf_t *cf,
    ngx_convotic_loc_conf_t *conf);
static char *ngx_convotic_check_upstream(ngx_conf_t *cf,
    ngx_convotic_loc_conf_t *clcf);
static char *ngx_convotic_default_namespace(ngx_conf_t *cf,
    ngx_convotic_loc_conf_t *conf);
static void ngx_convotic_host(ngx_conf_t *cf, ngx_convotic_loc_conf_t *conf);
static ngx_uint_t ngx_convotic_host_is_read(ngx_conf_t *cf);
static ngx_int_t ngx_convotic_init(ngx_conf_t *cf);
static ngx_int_t ngx_convotic_init_zone(ngx_conf_t *cf,
    ngx_convotic_main_conf_t *mcf);
static ngx_int_t ngx_convotic_init_redis(ngx_conf_t *cf,
    ngx_convotic_main_conf_t *mcf);
static ngx_int_t ngx_convotic_init_process(ngx_cycle_t *cycle);
static void ngx_convotic_exit_process(ngx_cycle_t *cycle);


static ngx_conf_enum_t  ngx_convotic_error_statuses[] = {
    { ngx_string("preserve"), NGX_CONVOTIC_ERROR_STATUS_PRESERVE },
    { ngx_string("documented"), NGX_CONVOTIC_ERROR_STATUS_DOCUMENTED },
    { ngx_null_string, 0 }
};


static ngx_conf_enum_t  ngx_convotic_unknown_args[] = {
    { ngx_string("ignore"), NGX_CONVOTIC_ARGS_IGNORE },
    { ngx_string("reject"), NGX_CONVOTIC_ARGS_REJECT },
    { ngx_null_string, 0 }
};


static ngx_conf_enum_t  ngx_convotic_rate_headers[] = {
    { ngx_string("documented"), NGX_CONVOTIC_RATE_DOCUMENTED },
    { ngx_string("draft"), NGX_CONVOTIC_RATE_DRAFT },
    { ngx_string("both"),
      NGX_CONVOTIC_RATE_DOCUMENTED|NGX_CONVOTIC_RATE_DRAFT },
    { ngx_null_string, 0 }
};


static ngx_conf_enum_t  ngx_convotic_status_forms[] = {
    { ngx_string("json"), NGX_CONVOTIC_STATUS_JSON },
    { ngx_string("prometheus"), NGX_CONVOTIC_STATUS_PROMETHEUS },
    { ngx_null_string, 0 }
};


#define NGX_CONVOTIC_ANY_CONF                                                 \
    (NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF)


static ngx_command_t  ngx_convotic_commands[] = {

    { ngx_string("convotic"),
      NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_convotic_loc_conf_t, enable),
      NULL },

    { ngx_string("convotic_errors"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_convotic_loc_conf_t, errors),
      NULL },

    { ngx_string("convotic_error_status"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_TAKE1,
      ngx_convotic_enum,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_convotic_loc_conf_t, error_status),
      &ngx_convotic_error_statuses },

    { ngx_string("convotic_redis"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_1MORE,
      ngx_convotic_redis,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_convotic_main_conf_t, keys),
      NULL },

    { ngx_string("convotic_cache_redis"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_1MORE,
      ngx_convotic_redis,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_convotic_main_conf_t, bodies),
      NULL },

    { ngx_string("convotic_redis_prefix"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_convotic_redis_prefix,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("convotic_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_convotic_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("convotic_platforms"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_1MORE,
      ngx_convotic_names,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_convotic_loc_conf_t, platforms),
      NULL },

    { ngx_string("convotic_limit"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_TAKE12,
      ngx_convotic_limit,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("convotic_unknown_args"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_TAKE1,
      ngx_convotic_enum,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_convotic_loc_conf_t, unknown_args),
      &ngx_convotic_unknown_args },

    { ngx_string("convotic_forward_args"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_1MORE,
      ngx_convotic_names,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_convotic_loc_conf_t, forward_args),
      NULL },

    { ngx_string("convotic_key_valid"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_TAKE1,
      ngx_convotic_time,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_convotic_loc_conf_t, key_valid),
      NULL },

    { ngx_string("convotic_key_invalid"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_TAKE1,
      ngx_convotic_time,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_convotic_loc_conf_t, key_invalid),
      NULL },

    { ngx_string("convotic_key_stale"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_TAKE1,
      ngx_convotic_time,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_convotic_loc_conf_t, key_stale),
      NULL },

    { ngx_string("convotic_auth_failures"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_TAKE1,
      ngx_convotic_per_minute,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_convotic_loc_conf_t, auth_failures),
      NULL },

    { ngx_string("convotic_rate"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_TAKE1,
      ngx_convotic_per_minute,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_convotic_loc_conf_t, rate),
      NULL },

    { ngx_string("convotic_rate_fallback"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_TAKE1,
      ngx_convotic_rate_fallback,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("convotic_rate_headers"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_TAKE1,
      ngx_convotic_enum,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_convotic_loc_conf_t, rate_headers),
      &ngx_convotic_rate_headers },

    { ngx_string("convotic_rate_dry_run"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_convotic_loc_conf_t, rate_dry_run),
      NULL },

    { ngx_string("convotic_cache"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_convotic_loc_conf_t, cache),
      NULL },

    { ngx_string("convotic_cache_valid"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_TAKE1,
      ngx_convotic_time,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_convotic_loc_conf_t, cache_valid),
      NULL },

    { ngx_string("convotic_cache_stale"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_TAKE1,
      ngx_convotic_time,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_convotic_loc_conf_t, cache_stale),
      NULL },

    { ngx_string("convotic_cache_lock_timeout"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_TAKE1,
      ngx_convotic_time,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_convotic_loc_conf_t, cache_lock_timeout),
      NULL },

    { ngx_string("convotic_cache_local"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE12,
      ngx_convotic_cache_local,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("convotic_gzip"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_TAKE12,
      ngx_convotic_gzip,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("convotic_cache_max_size"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_TAKE1,
      ngx_convotic_cache_max_size,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("convotic_cache_bypass"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_1MORE,
      ngx_http_set_predicate_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_convotic_loc_conf_t, cache_bypass),
      NULL },

    { ngx_string("convotic_cache_namespace"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_TAKE1,
      ngx_convotic_cache_namespace,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("convotic_fill_timeout"),
      NGX_CONVOTIC_ANY_CONF|NGX_CONF_TAKE1,
      ngx_convotic_time,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_convotic_loc_conf_t, fill_timeout),
      NULL },

    { ngx_string("convotic_status"),
      NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_convotic_status,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_convotic_loc_conf_t, status),
      &ngx_convotic_status_forms },

      ngx_null_command
};


static ngx_http_module_t  ngx_convotic_module_ctx = {
    ngx_convotic_variables_add,            /* preconfiguration */
    ngx_convotic_init,                     /* postconfiguration */

    ngx_convotic_create_main_conf,         /* create main configuration */
    ngx_convotic_init_main_conf,           /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_convotic_create_loc_conf,          /* create location configuration */
    ngx_convotic_merge_loc_conf            /* merge location configuration */
};


ngx_module_t  ngx_convotic_module = {
    NGX_MODULE_V1,
    &ngx_convotic_module_ctx,              /* module context */
    ngx_convotic_commands,                 /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_convotic_init_process,             /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_convotic_exit_process,             /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


/* every refusal says what was given, and what is allowed; nginx adds where */

static char *
ngx_convotic_invalid(ngx_conf_t *cf, ngx_command_t *cmd, ngx_str_t *value,
    const char *allowed)
{
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid value \"%V\" in \"%V\": it is %s",
                       value, &cmd->name, allowed);

    return NGX_CONF_ERROR;
}


/* cmd->post: a table of names */

static char *
ngx_convotic_enum(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    u_char           *p, text[128];
    ngx_str_t        *value;
    ngx_uint_t       *np, i;
    ngx_conf_enum_t  *e;

    np = (ngx_uint_t *) ((char *) conf + cmd->offset);

    if (*np != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;
    e = cmd->post;

    for (i = 0; e[i].name.len; i++) {
        if (e[i].name.len == value[1].len
            && ngx_strcmp(e[i].name.data, value[1].data) == 0)
        {
            *np = e[i].value;
            return NGX_CONF_OK;
        }
    }

    p = text;

    for (i = 0; e[i].name.len; i++) {
        p = ngx_slprintf(p, text + sizeof(text), "%s\"%V\"",
                         i ? " or " : "", &e[i].name);
    }

    (void) ngx_slprintf(p, text + sizeof(text), "%Z");

    return ngx_convotic_invalid(cf, cmd, &value[1], (char *) text);
}


static char *
ngx_convotic_time(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_str_t   *value;
    ngx_msec_t  *msp;

    msp = (ngx_msec_t *) ((char *) conf + cmd->offset);

    if (*msp != NGX_CONF_UNSET_MSEC) {
        return "is duplicate";
    }

    value = cf->args->elts;

    *msp = ngx_parse_time(&value[1], 0);

    if (value[1].len == 0 || *msp > NGX_CONVOTIC_TIME_MAX) {
        return ngx_convotic_invalid(cf, cmd, &value[1],
                                    "a time of ten years at most, such as "
                                    "\"500ms\" or \"30s\"");
    }

    return NGX_CONF_OK;
}


/* convotic_redis, convotic_cache_redis */

static char *
ngx_convotic_redis(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char                       *err;
    ngx_str_t                  *value;
    ngx_uint_t                  i;
    ngx_convotic_redis_t      **server;
    ngx_convotic_redis_conf_t   redis;

    server = (ngx_convotic_redis_t **) ((char *) conf + cmd->offset);

    if (*server) {
        return "is duplicate";
    }

    value = cf->args->elts;

    ngx_memzero(&redis, sizeof(ngx_convotic_redis_conf_t));

    redis.connect_timeout = NGX_CONVOTIC_CONNECT_TIMEOUT;
    redis.timeout = NGX_CONVOTIC_TIMEOUT;
    redis.role = (cmd->offset == offsetof(ngx_convotic_main_conf_t, keys))
                 ? NGX_CONVOTIC_REDIS_KEYS : NGX_CONVOTIC_REDIS_BODIES;

    err = ngx_convotic_url_parse(cf->pool, &value[1], &redis.url);

    if (err) {

        /* a password may be in it: the URL is not repeated */

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the URL of \"%V\" %s; it is "
                           "\"redis://[user[:password]@]host[:port][/db]\" "
                           "or \"unix:/path[?db=N]\"", &cmd->name, err);
        return NGX_CONF_ERROR;
    }

    for (i = 2; i < cf->args->nelts; i++) {
        err = ngx_convotic_redis_option(cf, cmd, &value[i], &redis);

        if (err != NGX_CONF_OK) {
            return err;
        }
    }

    if (redis.url.user.len && redis.url.password.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the URL of \"%V\" has a user and no password; "
                           "give it there or with \"password_file=\"",
                           &cmd->name);
        return NGX_CONF_ERROR;
    }

    *server = ngx_convotic_redis_create(cf, &redis);

    return *server ? NGX_CONF_OK : NGX_CONF_ERROR;
}


static char *
ngx_convotic_redis_option(ngx_conf_t *cf, ngx_command_t *cmd,
    ngx_str_t *option, ngx_convotic_redis_conf_t *redis)
{
    u_char       ch;
    ngx_str_t    value, name;
    ngx_msec_t  *timeout;

    if (ngx_strncmp(option->data, "password_file=", 14) == 0) {
        value.data = option->data + 14;
        value.len = option->len - 14;

        if (value.len == 0) {
            return ngx_convotic_invalid(cf, cmd, option,
                                        "the name of a file");
        }

        if (redis->url.password.len) {
            return "has a password in its URL and a \"password_file\" too";
        }

        return ngx_convotic_password_file(cf, &value, &redis->url.password);
    }

    if (ngx_strncmp(option->data, "connect_timeout=", 16) == 0) {
        value.data = option->data + 16;
        value.len = option->len - 16;
        timeout = &redis->connect_timeout;

    } else if (ngx_strncmp(option->data, "timeout=", 8) == 0) {
        value.data = option->data + 8;
        value.len = option->len - 8;
        timeout = &redis->timeout;

    } else if (ngx_strncmp(option->data, "redis://", 8) == 0
               || ngx_strncmp(option->data, "unix:", 5) == 0)
    {
        return "takes one URL: several servers are not supported";

    } else {
        /* what it is has a name; its value may be a password */

        for (name = *option, name.len = 0; name.len < option->len; name.len++) {
            ch = option->data[name.len] | 0x20;

            if ((ch < 'a' || ch > 'z') && option->data[name.len] != '_') {
                break;
            }
        }

        return ngx_convotic_invalid(cf, cmd, &name,
                                    "\"connect_timeout=\", \"timeout=\" or "
                                    "\"password_file=\"");
    }

    *timeout = ngx_parse_time(&value, 0);

    if (value.len == 0 || *timeout > NGX_CONVOTIC_TIME_MAX
        || *timeout == 0)
    {
        return ngx_convotic_invalid(cf, cmd, option,
                                    "a time above 0, such as \"50ms\"");
    }

    return NGX_CONF_OK;
}


/* the first line of the file */

static char *
ngx_convotic_password_file(ngx_conf_t *cf, ngx_str_t *name,
    ngx_str_t *password)
{
    u_char      buf[NGX_CONVOTIC_PASSWORD_MAX], *p;
    ssize_t     n;
    ngx_str_t   path;
    ngx_file_t  file;

    path = *name;

    if (ngx_conf_full_name(cf->cycle, &path, 1) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(&file, sizeof(ngx_file_t));

    file.name = path;
    file.log = cf->log;
    file.fd = ngx_open_file(path.data, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (file.fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_open_file_n " \"%V\" failed", &path);
        return NGX_CONF_ERROR;
    }

    n = ngx_read_file(&file, buf, sizeof(buf), 0);

    if (n == NGX_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" of \"password_file\" cannot be read",
                           &path);
    }

    if (ngx_close_file(file.fd) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_ALERT, cf, ngx_errno,
                           ngx_close_file_n " \"%V\" failed", &path);
    }

    if (n == NGX_ERROR) {
        return NGX_CONF_ERROR;
    }

    p = ngx_strlchr(buf, buf + n, '\n');

    password->len = p ? (size_t) (p - buf) : (size_t) n;

    if (password->len && buf[password->len - 1] == '\r') {
        password->len--;
    }

    if (password->len == 0 || password->len == sizeof(buf)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" has no password in its first line", &path);
        return NGX_CONF_ERROR;
    }

    password->data = ngx_pnalloc(cf->pool, password->len);
    if (password->data == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memcpy(password->data, buf, password->len);
    ngx_explicit_memzero(buf, sizeof(buf));

    return NGX_CONF_OK;
}


static char *
ngx_convotic_redis_prefix(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_str_t                 *value;
    ngx_convotic_main_conf_t  *mcf = conf;

    if (mcf->prefix.data) {
        return "is duplicate";
    }

    value = cf->args->elts;

    /* braces would move the hash tag that keeps a workspace in one slot */

    if (!ngx_convotic_is_visible(&value[1])
        || value[1].len > NGX_CONVOTIC_NAME_LEN
        || ngx_strlchr(value[1].data, value[1].data + value[1].len, '{')
        || ngx_strlchr(value[1].data, value[1].data + value[1].len, '}'))
    {
        return ngx_convotic_invalid(cf, cmd, &value[1],
                                    "at most 128 visible ASCII characters "
                                    "other than braces");
    }

    mcf->prefix = value[1];

    return NGX_CONF_OK;
}


static char *
ngx_convotic_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ssize_t                    size;
    ngx_str_t                 *value;
    ngx_convotic_main_conf_t  *mcf = conf;

    if (mcf->zone_size) {
        return "is duplicate";
    }

    value = cf->args->elts;

    size = ngx_parse_size(&value[1]);

    if (size < NGX_CONVOTIC_ZONE_MIN) {
        return ngx_convotic_invalid(cf, cmd, &value[1],
                                    "a size of at least 1m");
    }

    mcf->zone_size = size;

    return NGX_CONF_OK;
}


static char *
ngx_convotic_cache_local(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ssize_t                    size;
    ngx_str_t                 *value, valid;
    ngx_convotic_main_conf_t  *mcf = conf;

    if (mcf->local_size != NGX_CONF_UNSET_SIZE) {
        return "is duplicate";
    }

    value = cf->args->elts;

    size = ngx_parse_size(&value[1]);

    if (size != 0 && size < NGX_CONVOTIC_LOCAL_MIN) {
        return ngx_convotic_invalid(cf, cmd, &value[1],
                                    "0 or a size of at least 64k");
    }

    mcf->local_size = size;

    if (cf->args->nelts == 2) {
        return NGX_CONF_OK;
    }

    valid = value[2];

    if (ngx_strncmp(valid.data, "valid=", 6) == 0) {
        valid.data += 6;
        valid.len -= 6;

        mcf->local_valid = ngx_parse_time(&valid, 0);

        if (valid.len && mcf->local_valid <= NGX_CONVOTIC_TIME_MAX
            && mcf->local_valid > 0)
        {
            return NGX_CONF_OK;
        }
    }

    return ngx_convotic_invalid(cf, cmd, &value[2],
                                "\"valid=\" with a time above 0, such as "
                                "\"valid=5s\"");
}


static char *
ngx_convotic_gzip(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_int_t                 level;
    ngx_str_t                *value;
    ngx_convotic_loc_conf_t  *clcf = conf;

    if (clcf->gzip != NGX_CONF_UNSET) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "on") == 0) {
        clcf->gzip = 1;

    } else if (ngx_strcmp(value[1].data, "off") == 0) {
        clcf->gzip = 0;

    } else {
        return ngx_convotic_invalid(cf, cmd, &value[1], "\"on\" or \"off\"");
    }

    if (cf->args->nelts == 2) {
        return NGX_CONF_OK;
    }

    level = NGX_ERROR;

    if (ngx_strncmp(value[2].data, "level=", 6) == 0) {
        level = ngx_atoi(value[2].data + 6, value[2].len - 6);
    }

    if (level < 1 || level > 9) {
        return ngx_convotic_invalid(cf, cmd, &value[2],
                                    "\"level=\" with a number from 1 to 9");
    }

    clcf->gzip_level = level;

    return NGX_CONF_OK;
}


static char *
ngx_convotic_status(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char                      *rv;
    ngx_http_core_loc_conf_t  *clcf;
    ngx_convotic_main_conf_t  *mcf;

    rv = ngx_convotic_enum(cf, cmd, conf);
    if (rv != NGX_CONF_OK) {
        return rv;
    }

    mcf = ngx_http_conf_get_module_main_conf(cf, ngx_convotic_module);
    mcf->statuses++;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_convotic_status_handler;

    return NGX_CONF_OK;
}


/* convotic_platforms, convotic_forward_args */

static char *
ngx_convotic_names(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_str_t     *value, *name;
    ngx_uint_t     i, k;
    ngx_array_t  **names;

    names = (ngx_array_t **) ((char *) conf + cmd->offset);

    if (*names != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    *names = ngx_array_create(cf->pool, cf->args->nelts - 1,
                              sizeof(ngx_str_t));
    if (*names == NULL) {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (value[i].len == 0 || !ngx_convotic_is_visible(&value[i])) {
            return ngx_convotic_invalid(cf, cmd, &value[i],
                                        "a name of visible ASCII characters");
        }

        if (cmd->offset == offsetof(ngx_convotic_loc_conf_t, forward_args)
            && (ngx_strcmp(value[i].data, "limit") == 0
                || ngx_strcmp(value[i].data, "platform") == 0))
        {
            return ngx_convotic_invalid(cf, cmd, &value[i],
                                        "forwarded always");
        }

        for (k = 1; k < i; k++) {
            if (ngx_strcmp(value[k].data, value[i].data) == 0) {
                return ngx_convotic_invalid(cf, cmd, &value[i],
                                            "there twice");
            }
        }

        name = ngx_array_push(*names);
        *name = value[i];
    }

    return NGX_CONF_OK;
}


static char *
ngx_convotic_limit(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_int_t                 n;
    ngx_str_t                *value;
    ngx_uint_t                i, *limit;
    ngx_convotic_loc_conf_t  *clcf = conf;

    if (clcf->limit_max != NGX_CONF_UNSET_UINT
        || clcf->limit_default != NGX_CONF_UNSET_UINT)
    {
        return "is duplicate";
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        n = NGX_ERROR;
        limit = NULL;

        if (ngx_strncmp(value[i].data, "default=", 8) == 0) {
            n = ngx_atoi(value[i].data + 8, value[i].len - 8);
            limit = &clcf->limit_default;

        } else if (ngx_strncmp(value[i].data, "max=", 4) == 0) {
            n = ngx_atoi(value[i].data + 4, value[i].len - 4);
            limit = &clcf->limit_max;
        }

        if (limit && *limit != NGX_CONF_UNSET_UINT) {
            return "has the same parameter twice";
        }

        if (n < 1 || n > NGX_CONVOTIC_LIMIT_MAX) {
            return ngx_convotic_invalid(cf, cmd, &value[i],
                                        "\"default=\" or \"max=\" with a "
                                        "number from 1 to 1000000");
        }

        *limit = n;
    }

    return NGX_CONF_OK;
}


/* convotic_rate, convotic_auth_failures: 0 is off */

static char *
ngx_convotic_per_minute(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_int_t    n;
    ngx_str_t   *value;
    ngx_uint_t  *np;

    np = (ngx_uint_t *) ((char *) conf + cmd->offset);

    if (*np != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        *np = 0;
        return NGX_CONF_OK;
    }

    n = ngx_atoi(value[1].data, value[1].len);

    if (n < 1 || n > NGX_CONVOTIC_RATE_MAX) {
        return ngx_convotic_invalid(cf, cmd, &value[1],
                                    "a number from 1 to 1000000000, or "
                                    "\"off\"");
    }

    *np = n;

    return NGX_CONF_OK;
}


static char *
ngx_convotic_rate_fallback(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_int_t                 n;
    ngx_str_t                *value;
    ngx_convotic_loc_conf_t  *clcf = conf;

    if (clcf->rate_fallback != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    clcf->rate_share = 0;

    if (ngx_strcmp(value[1].data, "open") == 0) {
        clcf->rate_fallback = NGX_CONVOTIC_RATE_OPEN;
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value[1].data, "closed") == 0) {
        clcf->rate_fallback = NGX_CONVOTIC_RATE_CLOSED;
        return NGX_CONF_OK;
    }

    n = NGX_ERROR;

    if (ngx_strcmp(value[1].data, "local") == 0) {
        n = 0;

    } else if (ngx_strncmp(value[1].data, "local=", 6) == 0) {
        n = ngx_atoi(value[1].data + 6, value[1].len - 6);
        n = (n == 0) ? NGX_ERROR : n;
    }

    if (n == NGX_ERROR || n > NGX_CONVOTIC_RATE_MAX) {
        return ngx_convotic_invalid(cf, cmd, &value[1],
                                    "\"local\", \"local=\" with a number "
                                    "from 1 to 1000000000, \"open\" or "
                                    "\"closed\"");
    }

    clcf->rate_fallback = NGX_CONVOTIC_RATE_LOCAL;
    clcf->rate_share = n;

    return NGX_CONF_OK;
}


static char *
ngx_convotic_cache_namespace(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_str_t                *value;
    ngx_convotic_loc_conf_t  *clcf = conf;

    if (clcf->cache_namespace_set.data) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (value[1].len == 0 || value[1].len > NGX_CONVOTIC_NAME_LEN
        || !ngx_convotic_is_visible(&value[1]))
    {
        return ngx_convotic_invalid(cf, cmd, &value[1],
                                    "1 to 128 visible ASCII characters");
    }

    clcf->cache_namespace_set = value[1];

    return NGX_CONF_OK;
}


static char *
ngx_convotic_cache_max_size(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ssize_t                   size;
    ngx_str_t                *value;
    ngx_convotic_loc_conf_t  *clcf = conf;

    if (clcf->cache_max_size != NGX_CONF_UNSET_SIZE) {
        return "is duplicate";
    }

    value = cf->args->elts;

    size = ngx_parse_size(&value[1]);

    if (size < 1 || size > NGX_CONVOTIC_BODY_MAX) {
        return ngx_convotic_invalid(cf, cmd, &value[1],
                                    "a size from 1 to 16m");
    }

    clcf->cache_max_size = size;

    return NGX_CONF_OK;
}


static ngx_uint_t
ngx_convotic_is_visible(ngx_str_t *value)
{
    size_t  i;

    for (i = 0; i < value->len; i++) {
        if (value->data[i] <= ' ' || value->data[i] > '~') {
            return 0;
        }
    }

    return 1;
}


static void *
ngx_convotic_create_main_conf(ngx_conf_t *cf)
{
    ngx_convotic_main_conf_t  *mcf;

    mcf = ngx_pcalloc(cf->pool, sizeof(ngx_convotic_main_conf_t));
    if (mcf == NULL) {
        return NULL;
    }

    if (ngx_array_init(&mcf->namespaces, cf->pool, 4, sizeof(ngx_str_t))
        != NGX_OK)
    {
        return NULL;
    }

    mcf->reply_max = NGX_CONVOTIC_REPLY_MIN;
    mcf->local_size = NGX_CONF_UNSET_SIZE;
    mcf->local_valid = NGX_MAX_INT_T_VALUE;

    mcf->digest = ngx_convotic_digest_create(cf->pool);
    if (mcf->digest == NULL) {
        return NULL;
    }

    return mcf;
}


static char *
ngx_convotic_init_main_conf(ngx_conf_t *cf, void *conf)
{
    ngx_convotic_main_conf_t  *mcf = conf;

    if (mcf->prefix.data == NULL) {
        ngx_str_set(&mcf->prefix, "convotic:");
    }

    if (mcf->bodies && mcf->keys == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"convotic_cache_redis\" needs "
                           "\"convotic_redis\"");
        return NGX_CONF_ERROR;
    }

    if (mcf->bodies == NULL) {
        mcf->bodies = mcf->keys;
    }

    ngx_conf_init_size_value(mcf->local_size, NGX_CONVOTIC_LOCAL_SIZE);

    return NGX_CONF_OK;
}


static void *
ngx_convotic_create_loc_conf(ngx_conf_t *cf)
{
    ngx_convotic_loc_conf_t  *conf;

    /*
     * set by ngx_pcalloc():
     *
     *     conf->cache_namespace_set = { 0, NULL };
     *     conf->cache_namespace = { 0, NULL };
     *     conf->host = { 0, NULL };
     *     conf->host_in_namespace = 0;
     */

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_convotic_loc_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    conf->enable = NGX_CONF_UNSET;
    conf->errors = NGX_CONF_UNSET;
    conf->error_status = NGX_CONF_UNSET_UINT;
    conf->platforms = NGX_CONF_UNSET_PTR;
    conf->forward_args = NGX_CONF_UNSET_PTR;
    conf->unknown_args = NGX_CONF_UNSET_UINT;
    conf->limit_default = NGX_CONF_UNSET_UINT;
    conf->limit_max = NGX_CONF_UNSET_UINT;
    conf->key_valid = NGX_CONF_UNSET_MSEC;
    conf->key_invalid = NGX_CONF_UNSET_MSEC;
    conf->key_stale = NGX_CONF_UNSET_MSEC;
    conf->auth_failures = NGX_CONF_UNSET_UINT;
    conf->rate = NGX_CONF_UNSET_UINT;
    conf->rate_fallback = NGX_CONF_UNSET_UINT;
    conf->rate_share = NGX_CONF_UNSET_UINT;
    conf->rate_headers = NGX_CONF_UNSET_UINT;
    conf->rate_dry_run = NGX_CONF_UNSET;
    conf->cache = NGX_CONF_UNSET;
    conf->cache_valid = NGX_CONF_UNSET_MSEC;
    conf->cache_stale = NGX_CONF_UNSET_MSEC;
    conf->cache_lock_timeout = NGX_CONF_UNSET_MSEC;
    conf->cache_max_size = NGX_CONF_UNSET_SIZE;
    conf->gzip = NGX_CONF_UNSET;
    conf->gzip_level = NGX_CONF_UNSET;
    conf->cache_bypass = NGX_CONF_UNSET_PTR;
    conf->fill_timeout = NGX_CONF_UNSET_MSEC;
    conf->status = NGX_CONF_UNSET_UINT;

    return conf;
}


static char *
ngx_convotic_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_convotic_loc_conf_t  *prev = parent;
    ngx_convotic_loc_conf_t  *conf = child;

    ngx_conf_merge_value(conf->enable, prev->enable, 0);

    /* unset it stays: what it then means depends on "enable" */

    if (conf->errors == NGX_CONF_UNSET) {
        conf->errors = prev->errors;
    }

    ngx_conf_merge_uint_value(conf->error_status, prev->error_status,
                              NGX_CONVOTIC_ERROR_STATUS_PRESERVE);
    ngx_conf_merge_ptr_value(conf->forward_args, prev->forward_args, NULL);
    ngx_conf_merge_uint_value(conf->unknown_args, prev->unknown_args,
                              NGX_CONVOTIC_ARGS_IGNORE);
    ngx_conf_merge_uint_value(conf->limit_default, prev->limit_default, 20);
    ngx_conf_merge_uint_value(conf->limit_max, prev->limit_max, 100);
    ngx_conf_merge_msec_value(conf->key_valid, prev->key_valid, 10000);
    ngx_conf_merge_msec_value(conf->key_invalid, prev->key_invalid, 1000);
    ngx_conf_merge_msec_value(conf->key_stale, prev->key_stale, 60000);
    ngx_conf_merge_uint_value(conf->auth_failures, prev->auth_failures, 0);
    ngx_conf_merge_uint_value(conf->rate, prev->rate, 1000);
    ngx_conf_merge_uint_value(conf->rate_fallback, prev->rate_fallback,
                              NGX_CONVOTIC_RATE_LOCAL);
    ngx_conf_merge_uint_value(conf->rate_share, prev->rate_share, 0);
    ngx_conf_merge_uint_value(conf->rate_headers, prev->rate_headers,
                              NGX_CONVOTIC_RATE_DOCUMENTED);
    ngx_conf_merge_value(conf->rate_dry_run, prev->rate_dry_run, 0);
    ngx_conf_merge_value(conf->cache, prev->cache, 1);
    ngx_conf_merge_msec_value(conf->cache_valid, prev->cache_valid, 30000);
    ngx_conf_merge_msec_value(conf->cache_stale, prev->cache_stale, 300000);
    ngx_conf_merge_msec_value(conf->cache_lock_timeout,
                              prev->cache_lock_timeout, 5000);
    ngx_conf_merge_size_value(conf->cache_max_size, prev->cache_max_size,
                              256 * 1024);
    ngx_conf_merge_value(conf->gzip, prev->gzip, 1);
    ngx_conf_merge_value(conf->gzip_level, prev->gzip_level, 6);
    ngx_conf_merge_ptr_value(conf->cache_bypass, prev->cache_bypass, NULL);
    ngx_conf_merge_str_value(conf->cache_namespace_set,
                             prev->cache_namespace_set, "");
    ngx_conf_merge_msec_value(conf->fill_timeout, prev->fill_timeout, 10000);

    if (conf->fill_timeout == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"convotic_fill_timeout\" must be above 0");
        return NGX_CONF_ERROR;
    }

    if (ngx_convotic_merge_names(cf, prev, conf) != NGX_CONF_OK) {
        return NGX_CONF_ERROR;
    }

    if (conf->limit_default > conf->limit_max) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"convotic_limit\" has the default %ui, which is "
                           "above the maximum %ui",
                           conf->limit_default, conf->limit_max);
        return NGX_CONF_ERROR;
    }

    if (ngx_convotic_merge_texts(cf, conf) != NGX_CONF_OK) {
        return NGX_CONF_ERROR;
    }

    return conf->enable ? ngx_convotic_merge_enabled(cf, conf) : NGX_CONF_OK;
}


static char *
ngx_convotic_merge_texts(ngx_conf_t *cf, ngx_convotic_loc_conf_t *conf)
{
    u_char  *p;

    p = ngx_pnalloc(cf->pool,
                    sizeof("Parameter 'limit' must be between 1 and ")
                    + 3 * NGX_INT_T_LEN);
    if (p == NULL) {
        return NGX_CONF_ERROR;
    }

    conf->rate_text.data = p;
    p = ngx_sprintf(p, "%ui", conf->rate);
    conf->rate_text.len = p - conf->rate_text.data;

    conf->limit_text.data = p;
    p = ngx_sprintf(p, "%ui", conf->limit_default);
    conf->limit_text.len = p - conf->limit_text.data;

    conf->limit_error.data = p;
    p = ngx_sprintf(p, "Parameter 'limit' must be between 1 and %ui",
                    conf->limit_max);
    conf->limit_error.len = p - conf->limit_error.data;

    return NGX_CONF_OK;
}


static char *
ngx_convotic_merge_names(ngx_conf_t *cf, ngx_convotic_loc_conf_t *prev,
    ngx_convotic_loc_conf_t *conf)
{
    ngx_str_t   *name;
    ngx_uint_t   i;

    static ngx_str_t  platforms[] = {
        ngx_string("instagram"),
        ngx_string("line"),
        ngx_string("facebook"),
        ngx_string("whatsapp")
    };

    ngx_conf_merge_ptr_value(conf->platforms, prev->platforms, NULL);

    if (conf->platforms) {
        return ngx_convotic_merge_platforms_error(cf, conf);
    }

    conf->platforms = ngx_array_create(cf->pool, 4, sizeof(ngx_str_t));
    if (conf->platforms == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 0; i < sizeof(platforms) / sizeof(platforms[0]); i++) {
        name = ngx_array_push(conf->platforms);
        *name = platforms[i];
    }

    return ngx_convotic_merge_platforms_error(cf, conf);
}


static char *
ngx_convotic_merge_platforms_error(ngx_conf_t *cf,
    ngx_convotic_loc_conf_t *conf)
{
    u_char      *p;
    size_t       len;
    ngx_str_t   *name;
    ngx_uint_t   i;

    len = sizeof("Parameter 'platform' must be one of: ") - 1;
    name = conf->platforms->elts;

    for (i = 0; i < conf->platforms->nelts; i++) {
        len += sizeof(", ") - 1 + name[i].len;
    }

    p = ngx_pnalloc(cf->pool, len);
    if (p == NULL) {
        return NGX_CONF_ERROR;
    }

    conf->platforms_error.data = p;

    p = ngx_sprintf(p, "Parameter 'platform' must be one of: ");

    for (i = 0; i < conf->platforms->nelts; i++) {
        p = ngx_sprintf(p, i ? ", %V" : "%V", &name[i]);
    }

    conf->platforms_error.len = p - conf->platforms_error.data;

    return NGX_CONF_OK;
}


static char *
ngx_convotic_merge_enabled(ngx_conf_t *cf, ngx_convotic_loc_conf_t *conf)
{
    ngx_http_core_loc_conf_t  *clcf;
    ngx_convotic_main_conf_t  *mcf;

    mcf = ngx_http_conf_get_module_main_conf(cf, ngx_convotic_module);

    if (mcf->keys == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"convotic on\" needs \"convotic_redis\"");
        return NGX_CONF_ERROR;
    }

    mcf->enabled++;
    mcf->reply_max = ngx_max(mcf->reply_max, conf->cache_max_size);

    if (ngx_convotic_check_upstream(cf, conf) != NGX_CONF_OK) {
        return NGX_CONF_ERROR;
    }

    ngx_convotic_host(cf, conf);

    /* a location that is no exact one answers for many paths */

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    conf->uri_in_namespace = !clcf->exact_match;

    if (conf->cache_namespace_set.len) {
        conf->cache_namespace = conf->cache_namespace_set;
        return NGX_CONF_OK;
    }

    return ngx_convotic_default_namespace(cf, conf);
}


/*
 * nginx's own caches have keys that know no tenant, and without the request's
 * headers the upstream would not know whom it answers.  The modules that have
 * both have been merged before this one, and their configurations begin with
 * that of the upstream module.
 */

static char *
ngx_convotic_check_upstream(ngx_conf_t *cf, ngx_convotic_loc_conf_t *clcf)
{
    ngx_uint_t                 i;
    const char                *name;
    ngx_module_t             **modules;
    ngx_http_conf_ctx_t       *ctx;
    ngx_http_upstream_conf_t  *conf;
    ngx_convotic_main_conf_t  *mcf;

    mcf = ngx_http_conf_get_module_main_conf(cf, ngx_convotic_module);

    modules = cf->cycle->modules;
    ctx = cf->ctx;

    for (i = 0; modules[i]; i++) {

        if (modules[i]->type != NGX_HTTP_MODULE) {
            continue;
        }

        name = modules[i]->name;

        /* its configuration is a pointer to a list */

        if (ngx_strcmp(name, "ngx_http_try_files_module") == 0
            && *(void **) ctx->loc_conf[modules[i]->ctx_index] != NULL)
        {
            ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                               "\"try_files\" has no effect where "
                               "\"convotic\" is on: what it finds would not "
                               "be guarded");
            clcf->try_files = 1;
        }

        if (ngx_strcmp(name, "ngx_http_proxy_module") != 0
            && ngx_strcmp(name, "ngx_http_fastcgi_module") != 0
            && ngx_strcmp(name, "ngx_http_scgi_module") != 0
            && ngx_strcmp(name, "ngx_http_uwsgi_module") != 0)
        {
            continue;
        }

        conf = ctx->loc_conf[modules[i]->ctx_index];

        /* the others send HTTP_HOST by themselves */

        if (conf->upstream && ngx_strcmp(name, "ngx_http_proxy_module") != 0) {
            mcf->host_is_read = 1;
        }

        if (conf->store > 0
#if (NGX_HTTP_CACHE)
            || conf->cache > 0
#endif
           )
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"convotic on\" and a \"%s\" of nginx's own "
                               "exclude each other: its keys know no tenant",
                               conf->store > 0 ? "store" : "cache");
            return NGX_CONF_ERROR;
        }

        if (conf->pass_request_headers == 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"convotic on\" needs "
                               "\"pass_request_headers on\": the upstream "
                               "learns from them whose request it is");
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


/*
 * Server and location; where that is not one of a kind, a number in the order
 * of the configuration, which is the same on every node that shares it.
 */

static char *
ngx_convotic_default_namespace(ngx_conf_t *cf, ngx_convotic_loc_conf_t *conf)
{
    u_char                    *p;
    size_t                     i;
    ngx_str_t                 *ns;
    ngx_uint_t                 n, same;
    ngx_http_core_srv_conf_t  *cscf;
    ngx_http_core_loc_conf_t  *clcf;
    ngx_convotic_main_conf_t  *mcf;

    mcf = ngx_http_conf_get_module_main_conf(cf, ngx_convotic_module);
    cscf = ngx_http_conf_get_module_srv_conf(cf, ngx_http_core_module);
    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    p = ngx_pnalloc(cf->pool, cscf->server_name.len + 1 + clcf->name.len
                              + 1 + NGX_INT_T_LEN);
    if (p == NULL) {
        return NGX_CONF_ERROR;
    }

    conf->cache_namespace.data = p;
    p = ngx_sprintf(p, "%V %V", &cscf->server_name, &clcf->name);
    conf->cache_namespace.len = p - conf->cache_namespace.data;

    /* it is to be one line */

    for (i = 0; i < conf->cache_namespace.len; i++) {
        if (conf->cache_namespace.data[i] < ' ') {
            conf->cache_namespace.data[i] = '_';
        }
    }

    same = 0;
    ns = mcf->namespaces.elts;

    for (n = 0; n < mcf->namespaces.nelts; n++) {
        if (ns[n].len == conf->cache_namespace.len
            && ngx_memcmp(ns[n].data, conf->cache_namespace.data, ns[n].len)
               == 0)
        {
            same++;
        }
    }

    ns = ngx_array_push(&mcf->namespaces);
    if (ns == NULL) {
        return NGX_CONF_ERROR;
    }

    *ns = conf->cache_namespace;

    if (same) {
        /* a tab, which no location's name has here */

        conf->cache_namespace.len = ngx_sprintf(p, "\t%ui", same + 1)
                                    - conf->cache_namespace.data;
    }

    return NGX_CONF_OK;
}


/*
 * The Host that the upstream may be told is the server's first name.  Where
 * the names leave a choice to the client (none, a wildcard, an expression),
 * it is the client's, and belongs to the namespace.
 */

static void
ngx_convotic_host(ngx_conf_t *cf, ngx_convotic_loc_conf_t *conf)
{
    ngx_uint_t                 i;
    ngx_http_server_name_t    *name;
    ngx_http_core_srv_conf_t  *cscf;

    cscf = ngx_http_conf_get_module_srv_conf(cf, ngx_http_core_module);

    name = cscf->server_names.elts;

    for (i = 0; i < cscf->server_names.nelts; i++) {

        if (name[i].name.len == 0 || name[i].name.data[0] == '.'
            || name[i].name.data[0] == '_'
            || ngx_strlchr(name[i].name.data,
                           name[i].name.data + name[i].name.len, '*')
#if (NGX_PCRE)
            || name[i].regex
#endif
           )
        {
            conf->host_in_namespace = 1;
            return;
        }
    }

    conf->host = cscf->server_name;
}


/* where nothing reads the client's Host, it goes nowhere */

static ngx_uint_t
ngx_convotic_host_is_read(ngx_conf_t *cf)
{
    ngx_uint_t                  i;
    ngx_http_variable_t        *v;
    ngx_http_core_main_conf_t  *cmcf;

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    v = cmcf->variables.elts;

    for (i = 0; i < cmcf->variables.nelts; i++) {

        if ((v[i].name.len == 4
             && ngx_strncmp(v[i].name.data, "host", 4) == 0)
            || (v[i].name.len == 9
                && ngx_strncmp(v[i].name.data, "http_host", 9) == 0))
        {
            return 1;
        }
    }

    return 0;
}


static ngx_int_t
ngx_convotic_init(ngx_conf_t *cf)
{
    ngx_http_handler_pt        *h;
    ngx_http_core_main_conf_t  *cmcf;
    ngx_convotic_main_conf_t   *mcf;

    mcf = ngx_http_conf_get_module_main_conf(cf, ngx_convotic_module);
    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_PRECONTENT_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_convotic_gate_handler;

    ngx_convotic_filter_init();

    if ((mcf->enabled || mcf->statuses)
        && ngx_convotic_init_zone(cf, mcf) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (mcf->enabled == 0) {
        return NGX_OK;
    }

    if (ngx_convotic_host_is_read(cf)) {
        mcf->host_is_read = 1;
    }

    return ngx_convotic_init_redis(cf, mcf);
}


static ngx_int_t
ngx_convotic_init_zone(ngx_conf_t *cf, ngx_convotic_main_conf_t *mcf)
{
    u_char                      digest[NGX_CONVOTIC_DIGEST_LEN];
    ngx_str_t                   scope[3];
    ngx_convotic_zone_values_t  values;

    if (mcf->zone_size == 0) {
        mcf->zone_size = NGX_CONVOTIC_ZONE_SIZE;
    }

    ngx_convotic_records_values(&values);
    values.flights = ngx_convotic_flight_value();
    values.leases = ngx_convotic_leases_value();
    values.addresses = ngx_convotic_addresses_value();

    mcf->zone = ngx_convotic_zone_create(cf, mcf->zone_size, &values);

    if (mcf->zone == NULL) {
        return NGX_ERROR;
    }

    if (mcf->keys == NULL) {
        return NGX_OK;
    }

    /* a name has neither a blank nor a line's end in it */

    scope[0] = *ngx_convotic_redis_name(mcf->keys);
    ngx_str_set(&scope[1], "\n");
    scope[2] = mcf->prefix;

    if (ngx_convotic_digest(mcf->digest, scope, 3, digest) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_memcpy(&mcf->zone->scope, digest, sizeof(uint64_t));

    return NGX_OK;
}


static ngx_int_t
ngx_convotic_init_redis(ngx_conf_t *cf, ngx_convotic_main_conf_t *mcf)
{
    size_t                     max;
    ngx_msec_t                 resolver_timeout;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    /* a body, and its gzip form, which is shorter */

    max = 2 * mcf->reply_max + NGX_CONVOTIC_BODY_OVERHEAD
          + NGX_CONVOTIC_RESP_FEED;

    /* merged for servers and locations only */

    resolver_timeout = clcf->resolver_timeout;
    ngx_conf_init_msec_value(resolver_timeout, 30000);

    ngx_convotic_redis_configure(mcf->keys, mcf->zone, max,
                                 clcf->resolver, resolver_timeout);

    if (mcf->bodies != mcf->keys) {
        ngx_convotic_redis_configure(mcf->bodies, mcf->zone, max,
                                     clcf->resolver, resolver_timeout);
    }

    mcf->waiters = ngx_convotic_waiters_create(cf);
    mcf->flights = ngx_convotic_flight_create(cf, mcf);
    mcf->gzip = ngx_convotic_gzip_create(cf->pool);
    mcf->tracking = ngx_convotic_tracking_create(cf, mcf);
    mcf->limits = ngx_convotic_limit_create(cf, mcf);

    if (mcf->waiters == NULL || mcf->flights == NULL || mcf->gzip == NULL
        || mcf->tracking == NULL || mcf->limits == NULL
        || ngx_convotic_cache_init(cf, mcf) != NGX_OK
        || ngx_convotic_fill_init(cf, mcf) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (mcf->local_size == 0) {
        return NGX_OK;
    }

    mcf->local = ngx_convotic_local_create(cf->pool, mcf->local_size);

    return mcf->local ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_convotic_init_process(ngx_cycle_t *cycle)
{
    ngx_convotic_main_conf_t  *mcf;

    /* the cache manager is no worker */

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    mcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_convotic_module);

    if (mcf == NULL || mcf->enabled == 0) {
        return NGX_OK;
    }

    ngx_convotic_zone_start(mcf->zone);
    ngx_convotic_redis_start(mcf->keys, cycle);

    if (mcf->bodies != mcf->keys) {
        ngx_convotic_redis_start(mcf->bodies, cycle);
    }

    ngx_convotic_waiters_start(mcf->waiters, cycle);
    ngx_convotic_flight_start(mcf->flights, cycle);
    ngx_convotic_limit_start_worker(mcf->limits, cycle);
    ngx_convotic_tracking_start(mcf->tracking, cycle);

    return NGX_OK;
}


static void
ngx_convotic_exit_process(ngx_cycle_t *cycle)
{
    ngx_convotic_main_conf_t  *mcf;

    mcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_convotic_module);

    if (mcf == NULL || mcf->enabled == 0) {
        return;
    }

    ngx_convotic_tracking_stop(mcf->tracking);
    ngx_convotic_redis_stop(mcf->keys);

    if (mcf->bodies != mcf->keys) {
        ngx_convotic_redis_stop(mcf->bodies);
    }
}

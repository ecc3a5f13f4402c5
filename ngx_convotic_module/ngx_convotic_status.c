
/*
 * Owns the names of the metrics and the two forms that they leave in.  The
 * counters are read one by one while workers write them: each is exact, the
 * sum of a family may be between two requests.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_zone.h"
#include "ngx_convotic_records.h"
#include "ngx_convotic_status.h"


/* of the longest line, its names and numbers included */
#define NGX_CONVOTIC_STATUS_LINE  160


typedef struct {
    ngx_uint_t    count;
    const char   *value;         /* of the family's label; NULL: no label */
    const char   *server;        /* of the label "server"; NULL: none */
} ngx_convotic_status_row_t;


typedef struct {
    const char                       *name;
    const char                       *help;
    const char                       *label;
    const ngx_convotic_status_row_t  *rows;      /* ends with a count of -1 */
} ngx_convotic_status_family_t;


typedef struct {
    const char                       *name;
    const char                       *help;
    const char                       *server;
    ngx_convotic_time_e               time;
} ngx_convotic_status_time_t;


typedef ngx_atomic_uint_t (*ngx_convotic_status_value_pt)(
    ngx_convotic_zone_t *zone, ngx_uint_t data);

/* what can fall, and what is read elsewhere */

typedef struct {
    const char                       *name;
    const char                       *help;      /* NULL: as the one before */
    const char                       *type;
    const char                       *label;     /* NULL: no label */
    const char                       *value;
    ngx_convotic_status_value_pt      read;
    ngx_uint_t                        data;
} ngx_convotic_status_gauge_t;


static u_char *ngx_convotic_status_prometheus(ngx_convotic_zone_t *zone,
    u_char *p, u_char *last);
static u_char *ngx_convotic_status_prometheus_time(ngx_convotic_zone_t *zone,
    const ngx_convotic_status_time_t *t, u_char *p, u_char *last);
static u_char *ngx_convotic_status_prometheus_gauges(
    ngx_convotic_zone_t *zone, u_char *p, u_char *last);
static u_char *ngx_convotic_status_json(ngx_convotic_zone_t *zone, u_char *p,
    u_char *last);
static u_char *ngx_convotic_status_json_gauges(ngx_convotic_zone_t *zone,
    u_char *p, u_char *last);
static u_char *ngx_convotic_status_json_time(ngx_convotic_zone_t *zone,
    const ngx_convotic_status_time_t *t, u_char *p, u_char *last);
static size_t ngx_convotic_status_size(void);
static ngx_atomic_uint_t ngx_convotic_status_tracked(
    ngx_convotic_zone_t *zone, ngx_uint_t data);
static ngx_atomic_uint_t ngx_convotic_status_gauge(ngx_convotic_zone_t *zone,
    ngx_uint_t data);
static ngx_atomic_uint_t ngx_convotic_status_used(ngx_convotic_zone_t *zone,
    ngx_uint_t data);
static ngx_atomic_uint_t ngx_convotic_status_places(ngx_convotic_zone_t *zone,
    ngx_uint_t data);
static ngx_atomic_uint_t ngx_convotic_status_evicted(
    ngx_convotic_zone_t *zone, ngx_uint_t data);


#define NGX_CONVOTIC_STATUS_END  { NGX_CONVOTIC_COUNTS, NULL, NULL }


static const ngx_convotic_status_row_t  ngx_convotic_status_requests[] = {
    { NGX_CONVOTIC_COUNT_LOCAL, "local", NULL },
    { NGX_CONVOTIC_COUNT_HIT, "hit", NULL },
    { NGX_CONVOTIC_COUNT_MISS, "miss", NULL },
    { NGX_CONVOTIC_COUNT_EXPIRED, "expired", NULL },
    { NGX_CONVOTIC_COUNT_UPDATING, "updating", NULL },
    { NGX_CONVOTIC_COUNT_STALE, "stale", NULL },
    { NGX_CONVOTIC_COUNT_BYPASS, "bypass", NULL },
    { NGX_CONVOTIC_COUNT_REFUSED, "refused", NULL },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_errors[] = {
    { NGX_CONVOTIC_COUNT_UNAUTHORIZED, "UNAUTHORIZED", NULL },
    { NGX_CONVOTIC_COUNT_INVALID_REQUEST, "INVALID_REQUEST", NULL },
    { NGX_CONVOTIC_COUNT_NOT_FOUND, "NOT_FOUND", NULL },
    { NGX_CONVOTIC_COUNT_RATE_LIMITED, "RATE_LIMITED", NULL },
    { NGX_CONVOTIC_COUNT_INTERNAL_ERROR, "INTERNAL_ERROR", NULL },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_shaped[] = {
    { NGX_CONVOTIC_COUNT_SHAPED_UNAUTHORIZED, "UNAUTHORIZED", NULL },
    { NGX_CONVOTIC_COUNT_SHAPED_INVALID_REQUEST, "INVALID_REQUEST", NULL },
    { NGX_CONVOTIC_COUNT_SHAPED_NOT_FOUND, "NOT_FOUND", NULL },
    { NGX_CONVOTIC_COUNT_SHAPED_RATE_LIMITED, "RATE_LIMITED", NULL },
    { NGX_CONVOTIC_COUNT_SHAPED_INTERNAL_ERROR, "INTERNAL_ERROR", NULL },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_keys[] = {
    { NGX_CONVOTIC_COUNT_KEY_UNSURE, "unsure", NULL },
    { NGX_CONVOTIC_COUNT_KEY_DENIED, "denied", NULL },
    { NGX_CONVOTIC_COUNT_KEY_VALID, "valid", NULL },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_known[] = {
    { NGX_CONVOTIC_COUNT_KNOWN_DENIED, "denied", NULL },
    { NGX_CONVOTIC_COUNT_KNOWN_VALID, "valid", NULL },
    { NGX_CONVOTIC_COUNT_KNOWN_AGED, "aged", NULL },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_malformed[] = {
    { NGX_CONVOTIC_COUNT_RECORD_MALFORMED, NULL, NULL },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_rates[] = {
    { NGX_CONVOTIC_COUNT_RATE_REFUSED, "refused", NULL },
    { NGX_CONVOTIC_COUNT_RATE_DRY_RUN, "dry_run", NULL },
    { NGX_CONVOTIC_COUNT_RATE_UNVERIFIED, "unverified", NULL },
    { NGX_CONVOTIC_COUNT_RATE_UNSURE, "unsure", NULL },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_leases[] = {
    { NGX_CONVOTIC_COUNT_LEASE_GRANTED, "granted", NULL },
    { NGX_CONVOTIC_COUNT_LEASE_EMPTY, "empty", NULL },
    { NGX_CONVOTIC_COUNT_LEASE_FAILED, "failed", NULL },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_addresses[] = {
    { NGX_CONVOTIC_COUNT_ADDRESS_REFUSED, NULL, NULL },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_fills[] = {
    { NGX_CONVOTIC_COUNT_FILL_STORED, "stored", NULL },
    { NGX_CONVOTIC_COUNT_FILL_PASSED, "passed", NULL },
    { NGX_CONVOTIC_COUNT_FILL_ERROR, "error", NULL },
    { NGX_CONVOTIC_COUNT_FILL_FAILED, "failed", NULL },
    { NGX_CONVOTIC_COUNT_FILL_REFUSED, "refused", NULL },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_not_stored[] = {
    { NGX_CONVOTIC_COUNT_NOT_STORED_LIMIT, "limit", NULL },
    { NGX_CONVOTIC_COUNT_NOT_STORED_UPSTREAM, "upstream", NULL },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_refreshes[] = {
    { NGX_CONVOTIC_COUNT_REFRESHES, NULL, NULL },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_unchanged[] = {
    { NGX_CONVOTIC_COUNT_UNCHANGED, NULL, NULL },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_waited[] = {
    { NGX_CONVOTIC_COUNT_WAITED_SERVED, "served", NULL },
    { NGX_CONVOTIC_COUNT_WAITED_LATE, "late", NULL },
    { NGX_CONVOTIC_COUNT_WAITED_REFUSED, "refused", NULL },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_local_stored[] = {
    { NGX_CONVOTIC_COUNT_LOCAL_STORED, NULL, NULL },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_local_evicted[] = {
    { NGX_CONVOTIC_COUNT_LOCAL_EVICTED, NULL, NULL },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_invalidations[] = {
    { NGX_CONVOTIC_COUNT_INVALIDATED_KEY, "key", NULL },
    { NGX_CONVOTIC_COUNT_INVALIDATED_GENERATION, "generation", NULL },
    { NGX_CONVOTIC_COUNT_INVALIDATED_ALL, "all", NULL },
    { NGX_CONVOTIC_COUNT_INVALIDATED_FOREIGN, "foreign", NULL },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_trackings[] = {
    { NGX_CONVOTIC_COUNT_TRACKING_CONFIRMED, "confirmed", NULL },
    { NGX_CONVOTIC_COUNT_TRACKING_LOST, "lost", NULL },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_races[] = {
    { NGX_CONVOTIC_COUNT_RACES, NULL, NULL },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_commands[] = {
    { NGX_CONVOTIC_COUNT_KEYS_COMMANDS, NULL, "keys" },
    { NGX_CONVOTIC_COUNT_BODIES_COMMANDS, NULL, "bodies" },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_replies[] = {
    { NGX_CONVOTIC_COUNT_KEYS_ERRORS, NULL, "keys" },
    { NGX_CONVOTIC_COUNT_BODIES_ERRORS, NULL, "bodies" },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_connections[] = {
    { NGX_CONVOTIC_COUNT_KEYS_CONNECTIONS, NULL, "keys" },
    { NGX_CONVOTIC_COUNT_BODIES_CONNECTIONS, NULL, "bodies" },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_failures[] = {
    { NGX_CONVOTIC_COUNT_KEYS_FAILURES, NULL, "keys" },
    { NGX_CONVOTIC_COUNT_BODIES_FAILURES, NULL, "bodies" },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_row_t  ngx_convotic_status_refusals[] = {
    { NGX_CONVOTIC_COUNT_KEYS_REFUSED, NULL, "keys" },
    { NGX_CONVOTIC_COUNT_BODIES_REFUSED, NULL, "bodies" },
    NGX_CONVOTIC_STATUS_END
};


static const ngx_convotic_status_family_t  ngx_convotic_status_families[] = {
    { "convotic_requests_total",
      "Requests that the gateway answered, by where the answer came from.",
      "result", ngx_convotic_status_requests },
    { "convotic_errors_total",
      "Errors that the gateway answered with.",
      "code", ngx_convotic_status_errors },
    { "convotic_shaped_errors_total",
      "Errors of nginx and of other locations that were rewritten.",
      "code", ngx_convotic_status_shaped },
    { "convotic_keys_total",
      "Verdicts on keys that were looked up.",
      "verdict", ngx_convotic_status_keys },
    { "convotic_known_keys_total",
      "Verdicts on keys from the zone; aged: used because Redis was away.",
      "verdict", ngx_convotic_status_known },
    { "convotic_malformed_records_total",
      "Key records that were refused because a field is malformed.",
      NULL, ngx_convotic_status_malformed },
    { "convotic_rate_total",
      "Requests that the rate did not simply admit.",
      "result", ngx_convotic_status_rates },
    { "convotic_rate_leases_total",
      "Questions to Redis for a part of a key's rate, by the answer.",
      "result", ngx_convotic_status_leases },
    { "convotic_auth_limited_total",
      "Requests refused because their address tried too many unknown keys.",
      NULL, ngx_convotic_status_addresses },
    { "convotic_fills_total",
      "Requests to the upstream, by their end.",
      "result", ngx_convotic_status_fills },
    { "convotic_fills_not_stored_total",
      "Valid answers of the upstream that were not cached, by who forbade it.",
      "reason", ngx_convotic_status_not_stored },
    { "convotic_refreshes_total",
      "Requests to the upstream that no client waited for.",
      NULL, ngx_convotic_status_refreshes },
    { "convotic_fills_unchanged_total",
      "Answers of the upstream with the bytes of the one before.",
      NULL, ngx_convotic_status_unchanged },
    { "convotic_waits_total",
      "Requests that waited for another one's fetch, by their end.",
      "result", ngx_convotic_status_waited },
    { "convotic_local_stored_total",
      "Bodies that were taken into the first level.",
      NULL, ngx_convotic_status_local_stored },
    { "convotic_local_evicted_total",
      "Bodies that had to leave the first level for others.",
      NULL, ngx_convotic_status_local_evicted },
    { "convotic_invalidations_total",
      "Changes that Redis told of, and messages that were no such.",
      "subject", ngx_convotic_status_invalidations },
    { "convotic_tracking_total",
      "Beginnings and losses of tracking.",
      "event", ngx_convotic_status_trackings },
    { "convotic_races_total",
      "Answers of Redis not kept because their subject changed meanwhile.",
      NULL, ngx_convotic_status_races },
    { "convotic_redis_commands_total",
      "Commands of requests that were sent to Redis.",
      NULL, ngx_convotic_status_commands },
    { "convotic_redis_errors_total",
      "Error replies of Redis to them.",
      NULL, ngx_convotic_status_replies },
    { "convotic_redis_connections_total",
      "Connections to Redis that were greeted and used.",
      NULL, ngx_convotic_status_connections },
    { "convotic_redis_failures_total",
      "Failures of Redis: refused, lost, late or not to be believed.",
      NULL, ngx_convotic_status_failures },
    { "convotic_redis_refused_total",
      "Commands that were not sent because Redis was known to be away.",
      NULL, ngx_convotic_status_refusals },
    { NULL, NULL, NULL, NULL }
};


static const ngx_convotic_status_time_t  ngx_convotic_status_times[] = {
    { "convotic_redis_seconds",
      "Time from queueing a command for Redis to its reply.",
      "keys", NGX_CONVOTIC_TIME_KEYS },
    { "convotic_redis_seconds", NULL, "bodies", NGX_CONVOTIC_TIME_BODIES },
    { "convotic_fill_seconds",
      "Time that the upstream took.", NULL, NGX_CONVOTIC_TIME_FILL },
    { NULL, NULL, NULL, 0 }
};


static const ngx_convotic_status_gauge_t  ngx_convotic_status_gauges[] = {

    { "convotic_tracking_confirmed",
      "1: changes in Redis are told at once; 0: what is known lives a second.",
      "gauge", NULL, NULL, ngx_convotic_status_tracked, 0 },

    { "convotic_redis_away",
      "Workers that hold the server to be away.",
      "gauge", "server", "keys", ngx_convotic_status_gauge,
      NGX_CONVOTIC_GAUGE_KEYS_AWAY },
    { "convotic_redis_away", NULL, "gauge", "server", "bodies",
      ngx_convotic_status_gauge, NGX_CONVOTIC_GAUGE_BODIES_AWAY },

    { "convotic_waiting",
      "Requests that wait for another one's fetch.",
      "gauge", NULL, NULL, ngx_convotic_status_gauge,
      NGX_CONVOTIC_GAUGE_WAITING },

    { "convotic_local_bytes",
      "Memory of the first level, all workers.",
      "gauge", NULL, NULL, ngx_convotic_status_gauge,
      NGX_CONVOTIC_GAUGE_LOCAL_BYTES },

    { "convotic_local_bodies",
      "Bodies in the first level, all workers.",
      "gauge", NULL, NULL, ngx_convotic_status_gauge,
      NGX_CONVOTIC_GAUGE_LOCAL_BODIES },

#define NGX_CONVOTIC_STATUS_TABLES(name, help, type, read)                    \
    { name, help, type, "table", "keys", read,                                \
      offsetof(ngx_convotic_tables_t, keys) },                                \
    { name, NULL, type, "table", "refusals", read,                            \
      offsetof(ngx_convotic_tables_t, refusals) },                            \
    { name, NULL, type, "table", "generations", read,                         \
      offsetof(ngx_convotic_tables_t, generations) },                         \
    { name, NULL, type, "table", "lookups", read,                             \
      offsetof(ngx_convotic_tables_t, lookups) },                             \
    { name, NULL, type, "table", "fetches", read,                             \
      offsetof(ngx_convotic_tables_t, fetches) },                             \
    { name, NULL, type, "table", "leases", read,                              \
      offsetof(ngx_convotic_tables_t, leases) },                              \
    { name, NULL, type, "table", "addresses", read,                           \
      offsetof(ngx_convotic_tables_t, addresses) }

    NGX_CONVOTIC_STATUS_TABLES("convotic_zone_entries",
                               "Entries of the zone's tables in use.",
                               "gauge", ngx_convotic_status_used),
    NGX_CONVOTIC_STATUS_TABLES("convotic_zone_places",
                               "Entries that the zone's tables have room for.",
                               "gauge", ngx_convotic_status_places),
    NGX_CONVOTIC_STATUS_TABLES("convotic_zone_evicted_total",
                               "Entries that had to leave for others.",
                               "counter", ngx_convotic_status_evicted),

    { NULL, NULL, NULL, NULL, NULL, NULL, 0 }
};


ngx_int_t
ngx_convotic_status_handler(ngx_http_request_t *r)
{
    size_t                     size;
    u_char                    *last;
    ngx_int_t                  rc;
    ngx_buf_t                 *b;
    ngx_chain_t                out;
    ngx_convotic_loc_conf_t   *conf;
    ngx_convotic_main_conf_t  *mcf;

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        return NGX_HTTP_NOT_ALLOWED;
    }

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    conf = ngx_http_get_module_loc_conf(r, ngx_convotic_module);
    mcf = ngx_http_get_module_main_conf(r, ngx_convotic_module);

    size = ngx_convotic_status_size();

    b = ngx_create_temp_buf(r->pool, size);
    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    last = b->start + size;

    if (conf->status == NGX_CONVOTIC_STATUS_JSON) {
        b->last = ngx_convotic_status_json(mcf->zone, b->pos, last);
        ngx_str_set(&r->headers_out.content_type, "application/json");

    } else {
        b->last = ngx_convotic_status_prometheus(mcf->zone, b->pos, last);
        ngx_str_set(&r->headers_out.content_type,
                    "text/plain; version=0.0.4; charset=utf-8");
    }

    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.status = NGX_HTTP_OK;
    r->headers_out.content_length_n = b->last - b->pos;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    b->last_buf = (r == r->main) ? 1 : 0;
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}


/* the text format of Prometheus, version 0.0.4 */

static u_char *
ngx_convotic_status_prometheus(ngx_convotic_zone_t *zone, u_char *p,
    u_char *last)
{
    const ngx_convotic_status_row_t     *row;
    const ngx_convotic_status_time_t    *t;
    const ngx_convotic_status_family_t  *family;

    for (family = ngx_convotic_status_families; family->name; family++) {

        p = ngx_slprintf(p, last, "# HELP %s %s\n# TYPE %s counter\n",
                         family->name, family->help, family->name);

        for (row = family->rows; row->count != NGX_CONVOTIC_COUNTS; row++) {

            p = ngx_slprintf(p, last, "%s", family->name);

            if (row->server) {
                p = ngx_slprintf(p, last, "{server=\"%s\"}", row->server);

            } else if (row->value) {
                p = ngx_slprintf(p, last, "{%s=\"%s\"}", family->label,
                                 row->value);
            }

            p = ngx_slprintf(p, last, " %uA\n",
                             ngx_convotic_zone_value(zone, row->count));
        }
    }

    p = ngx_convotic_status_prometheus_gauges(zone, p, last);

    for (t = ngx_convotic_status_times; t->name; t++) {

        if (t->help) {
            p = ngx_slprintf(p, last, "# HELP %s %s\n# TYPE %s histogram\n",
                             t->name, t->help, t->name);
        }

        p = ngx_convotic_status_prometheus_time(zone, t, p, last);
    }

    return p;
}


static u_char *
ngx_convotic_status_prometheus_gauges(ngx_convotic_zone_t *zone, u_char *p,
    u_char *last)
{
    const ngx_convotic_status_gauge_t  *g;

    for (g = ngx_convotic_status_gauges; g->name; g++) {

        if (g->help) {
            p = ngx_slprintf(p, last, "# HELP %s %s\n# TYPE %s %s\n",
                             g->name, g->help, g->name, g->type);
        }

        p = ngx_slprintf(p, last, "%s", g->name);

        if (g->label) {
            p = ngx_slprintf(p, last, "{%s=\"%s\"}", g->label, g->value);
        }

        p = ngx_slprintf(p, last, " %uA\n", g->read(zone, g->data));
    }

    return p;
}


static u_char *
ngx_convotic_status_prometheus_time(ngx_convotic_zone_t *zone,
    const ngx_convotic_status_time_t *t, u_char *p, u_char *last)
{
    u_char                     labels[32], *end;
    ngx_uint_t                 i;
    ngx_atomic_uint_t          n, sum;
    ngx_convotic_zone_time_t  *time;

    static const ngx_msec_t  bounds[] = NGX_CONVOTIC_TIME_BOUNDS;

    time = ngx_convotic_zone_times(zone, t->time);
    n = 0;

    end = labels;
    if (t->server) {
        end = ngx_sprintf(labels, "server=\"%s\",", t->server);
    }

    for (i = 0; i < NGX_CONVOTIC_TIME_BUCKETS - 1; i++) {
        n += time->buckets[i];

        p = ngx_slprintf(p, last, "%s_bucket{%*sle=\"%M.%03M\"} %uA\n",
                         t->name, (size_t) (end - labels), labels,
                         bounds[i] / 1000, bounds[i] % 1000, n);
    }

    n += time->buckets[i];
    sum = time->sum;

    p = ngx_slprintf(p, last, "%s_bucket{%*sle=\"+Inf\"} %uA\n",
                     t->name, (size_t) (end - labels), labels, n);

    /* without the comma that a label "le" would follow */

    if (t->server) {
        end[-1] = '}';
        p = ngx_slprintf(p, last, "%s_sum{%*s %uA.%03uA\n%s_count{%*s %uA\n",
                         t->name, (size_t) (end - labels), labels,
                         sum / 1000, sum % 1000,
                         t->name, (size_t) (end - labels), labels, n);
        return p;
    }

    return ngx_slprintf(p, last, "%s_sum %uA.%03uA\n%s_count %uA\n",
                        t->name, sum / 1000, sum % 1000, t->name, n);
}


/* the names without "convotic_" and "_total", a family as an object */

static u_char *
ngx_convotic_status_json(ngx_convotic_zone_t *zone, u_char *p, u_char *last)
{
    size_t                               len;
    const char                          *name;
    const ngx_convotic_status_row_t     *row;
    const ngx_convotic_status_time_t    *t;
    const ngx_convotic_status_family_t  *family;

    p = ngx_slprintf(p, last, "{");

    for (family = ngx_convotic_status_families; family->name; family++) {

        name = family->name + sizeof("convotic_") - 1;
        len = ngx_strlen(name) - (sizeof("_total") - 1);

        p = ngx_slprintf(p, last, "%s\"%*s\":",
                         family == ngx_convotic_status_families ? "" : ",",
                         len, name);

        row = family->rows;

        if (row->value == NULL && row->server == NULL) {
            p = ngx_slprintf(p, last, "%uA",
                             ngx_convotic_zone_value(zone, row->count));
            continue;
        }

        for ( /* void */ ; row->count != NGX_CONVOTIC_COUNTS; row++) {
            p = ngx_slprintf(p, last, "%s\"%s\":%uA",
                             row == family->rows ? "{" : ",",
                             row->server ? row->server : row->value,
                             ngx_convotic_zone_value(zone, row->count));
        }

        p = ngx_slprintf(p, last, "}");
    }

    p = ngx_convotic_status_json_gauges(zone, p, last);

    for (t = ngx_convotic_status_times; t->name; t++) {

        if (t->help) {
            p = ngx_slprintf(p, last, ",\"%s\":%s",
                             t->name + sizeof("convotic_") - 1,
                             t->server ? "{" : "");
        }

        if (t->server) {
            p = ngx_slprintf(p, last, "%s\"%s\":", t->help ? "" : ",",
                             t->server);
        }

        p = ngx_convotic_status_json_time(zone, t, p, last);

        if (t->server && (t[1].name == NULL || t[1].help)) {
            p = ngx_slprintf(p, last, "}");
        }
    }

    return ngx_slprintf(p, last, "}\n");
}


static u_char *
ngx_convotic_status_json_gauges(ngx_convotic_zone_t *zone, u_char *p,
    u_char *last)
{
    size_t                              len;
    const char                         *name;
    const ngx_convotic_status_gauge_t  *g;

    for (g = ngx_convotic_status_gauges; g->name; g++) {

        if (g->help) {
            name = g->name + sizeof("convotic_") - 1;
            len = ngx_strlen(name);

            if (g->type[0] == 'c') {
                len -= sizeof("_total") - 1;
            }

            p = ngx_slprintf(p, last, ",\"%*s\":%s", len, name,
                             g->label ? "{" : "");
        }

        if (g->label) {
            p = ngx_slprintf(p, last, "%s\"%s\":", g->help ? "" : ",",
                             g->value);
        }

        p = ngx_slprintf(p, last, "%uA", g->read(zone, g->data));

        if (g->label && (g[1].name == NULL || g[1].help)) {
            p = ngx_slprintf(p, last, "}");
        }
    }

    return p;
}


static u_char *
ngx_convotic_status_json_time(ngx_convotic_zone_t *zone,
    const ngx_convotic_status_time_t *t, u_char *p, u_char *last)
{
    ngx_uint_t                 i;
    ngx_atomic_uint_t          n, sum;
    ngx_convotic_zone_time_t  *time;

    time = ngx_convotic_zone_times(zone, t->time);
    n = 0;

    for (i = 0; i < NGX_CONVOTIC_TIME_BUCKETS; i++) {
        n += time->buckets[i];
    }

    sum = time->sum;

    return ngx_slprintf(p, last, "{\"count\":%uA,\"sum\":%uA.%03uA}", n,
                        sum / 1000, sum % 1000);
}


static size_t
ngx_convotic_status_size(void)
{
    size_t                               n;
    const ngx_convotic_status_row_t     *row;
    const ngx_convotic_status_time_t    *t;
    const ngx_convotic_status_family_t  *family;

    n = 1;

    for (family = ngx_convotic_status_families; family->name; family++) {

        n += 2;     /* HELP, TYPE */

        for (row = family->rows; row->count != NGX_CONVOTIC_COUNTS; row++) {
            n++;
        }
    }

    n += 3 * sizeof(ngx_convotic_status_gauges)
           / sizeof(ngx_convotic_status_gauges[0]);

    for (t = ngx_convotic_status_times; t->name; t++) {
        n += 2 + NGX_CONVOTIC_TIME_BUCKETS + 2;
    }

    return n * NGX_CONVOTIC_STATUS_LINE;
}


static ngx_atomic_uint_t
ngx_convotic_status_tracked(ngx_convotic_zone_t *zone, ngx_uint_t data)
{
    return ngx_convotic_records_tracked(zone);
}


static ngx_atomic_uint_t
ngx_convotic_status_gauge(ngx_convotic_zone_t *zone, ngx_uint_t data)
{
    return ngx_convotic_zone_gauge_value(zone, data);
}


/* data: the offset of a table */

static ngx_atomic_uint_t
ngx_convotic_status_used(ngx_convotic_zone_t *zone, ngx_uint_t data)
{
    return ((ngx_convotic_table_t *) ((u_char *) zone->tables + data))->used;
}


static ngx_atomic_uint_t
ngx_convotic_status_places(ngx_convotic_zone_t *zone, ngx_uint_t data)
{
    return ngx_convotic_table_places(
                (ngx_convotic_table_t *) ((u_char *) zone->tables + data));
}


static ngx_atomic_uint_t
ngx_convotic_status_evicted(ngx_convotic_zone_t *zone, ngx_uint_t data)
{
    return ((ngx_convotic_table_t *)
                ((u_char *) zone->tables + data))->evicted;
}

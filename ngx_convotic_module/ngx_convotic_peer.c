
/*
 * Owns the addresses of a server, and the question to nginx's resolver.  The
 * object is of the configuration; what a worker changes in it is the worker's
 * own, for workers are processes.
 *
 * The addresses of the configuration serve until they have failed.  With a
 * resolver, the name is asked for again then; what the resolver tells is used
 * for one attempt and not kept.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_peer.h"


#define NGX_CONVOTIC_PEER_PORT  6379


struct ngx_convotic_peer_s {
    /* read-only once nginx has started */

    ngx_str_t                      name;         /* for logs */
    ngx_str_t                      host;         /* empty: an address */
    in_port_t                      port;
    ngx_addr_t                    *addrs;
    ngx_uint_t                     naddrs;
    ngx_resolver_t                *resolver;     /* NULL: there is none */
    ngx_msec_t                     timeout;      /* of the resolver */

    /* a worker's */

    ngx_uint_t                     next;         /* address to be tried */
    ngx_sockaddr_t                 sockaddr;     /* that was found */
    socklen_t                      socklen;

    ngx_resolver_ctx_t            *resolve;
    ngx_log_t                     *log;
    ngx_convotic_peer_handler_pt   handler;
    void                          *data;
};


static void ngx_convotic_peer_configured(ngx_convotic_peer_t *peer);
static void ngx_convotic_peer_resolve(ngx_convotic_peer_t *peer);
static void ngx_convotic_peer_resolve_handler(ngx_resolver_ctx_t *ctx);


ngx_convotic_peer_t *
ngx_convotic_peer_create(ngx_conf_t *cf, ngx_convotic_url_t *url)
{
    u_char               *colon;
    ngx_str_t             host;
    ngx_url_t             u;
    ngx_convotic_peer_t  *peer;

    ngx_memzero(&u, sizeof(ngx_url_t));

    u.url = url->address;
    u.default_port = NGX_CONVOTIC_PEER_PORT;

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

    peer = ngx_pcalloc(cf->pool, sizeof(ngx_convotic_peer_t));
    if (peer == NULL) {
        return NULL;
    }

    peer->addrs = u.addrs;
    peer->naddrs = u.naddrs;
    peer->port = u.port;

    peer->name.data = ngx_pnalloc(cf->pool, u.url.len + 1 + NGX_INT_T_LEN);
    if (peer->name.data == NULL) {
        return NULL;
    }

    peer->name.len = ngx_sprintf(peer->name.data, "%V/%ui", &u.url, url->db)
                     - peer->name.data;

    if (u.family != AF_UNIX
        && ngx_inet_addr(u.host.data, u.host.len) == INADDR_NONE
        && u.host.data[0] != '[')
    {
        peer->host = u.host;
    }

    return peer;
}


ngx_convotic_peer_t *
ngx_convotic_peer_copy(ngx_conf_t *cf, ngx_convotic_peer_t *peer)
{
    ngx_convotic_peer_t  *copy;

    copy = ngx_palloc(cf->pool, sizeof(ngx_convotic_peer_t));

    if (copy) {
        *copy = *peer;
    }

    return copy;
}


void
ngx_convotic_peer_configure(ngx_convotic_peer_t *peer,
    ngx_resolver_t *resolver, ngx_msec_t timeout)
{
    /* nginx has one that can resolve nothing where none is configured */

    if (resolver && resolver->connections.nelts) {
        peer->resolver = resolver;
    }

    peer->timeout = timeout;
}


ngx_str_t *
ngx_convotic_peer_name(ngx_convotic_peer_t *peer)
{
    return &peer->name;
}


ngx_uint_t
ngx_convotic_peer_addresses(ngx_convotic_peer_t *peer)
{
    return peer->naddrs;
}


void
ngx_convotic_peer_find(ngx_convotic_peer_t *peer, ngx_uint_t failed,
    ngx_log_t *log, ngx_convotic_peer_handler_pt handler, void *data)
{
    peer->log = log;
    peer->handler = handler;
    peer->data = data;

    if (failed && peer->resolver && peer->host.len) {
        ngx_convotic_peer_resolve(peer);
        return;
    }

    ngx_convotic_peer_configured(peer);
}


void
ngx_convotic_peer_cancel(ngx_convotic_peer_t *peer)
{
    if (peer->resolve) {
        ngx_resolve_name_done(peer->resolve);
        peer->resolve = NULL;
    }
}


void
ngx_convotic_peer_next(ngx_convotic_peer_t *peer)
{
    peer->next++;
}


static void
ngx_convotic_peer_configured(ngx_convotic_peer_t *peer)
{
    ngx_addr_t  *addr;

    addr = &peer->addrs[peer->next % peer->naddrs];

    peer->socklen = addr->socklen;
    ngx_memcpy(&peer->sockaddr, addr->sockaddr, addr->socklen);

    peer->handler(peer->data, NGX_OK);
}


static void
ngx_convotic_peer_resolve(ngx_convotic_peer_t *peer)
{
    ngx_resolver_ctx_t  *ctx, temp;

    ngx_memzero(&temp, sizeof(ngx_resolver_ctx_t));
    temp.name = peer->host;

    ctx = ngx_resolve_start(peer->resolver, &temp);

    /* want of memory is no reason to give up the address, either */

    if (ctx == NULL || ctx == NGX_NO_RESOLVER) {
        ngx_convotic_peer_configured(peer);
        return;
    }

    ctx->name = peer->host;
    ctx->handler = ngx_convotic_peer_resolve_handler;
    ctx->data = peer;
    ctx->timeout = peer->timeout;
    ctx->cancelable = 1;

    peer->resolve = ctx;

    if (ngx_resolve_name(ctx) != NGX_OK) {
        peer->resolve = NULL;
        ngx_convotic_peer_configured(peer);
    }
}


static void
ngx_convotic_peer_resolve_handler(ngx_resolver_ctx_t *ctx)
{
    ngx_uint_t            gone;
    ngx_convotic_peer_t  *peer;
    ngx_resolver_addr_t  *addr;

    peer = ctx->data;

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, peer->log, 0,
                   "convotic peer resolved: %i", ctx->state);

    peer->resolve = NULL;

    if (ctx->state || ctx->naddrs == 0) {
        gone = (ctx->state == NGX_RESOLVE_NXDOMAIN);

        ngx_log_error(NGX_LOG_INFO, peer->log, 0, "\"%V\": %s",
                      &peer->host, ngx_resolver_strerror(ctx->state));

        ngx_resolve_name_done(ctx);

        if (gone) {
            peer->handler(peer->data, NGX_ERROR);
            return;
        }

        /* a name server that is away is no reason to give up the address */

        ngx_convotic_peer_configured(peer);
        return;
    }

    addr = &ctx->addrs[peer->next % ctx->naddrs];

    peer->socklen = addr->socklen;
    ngx_memcpy(&peer->sockaddr, addr->sockaddr, addr->socklen);
    ngx_inet_set_port(&peer->sockaddr.sockaddr, peer->port);

    ngx_resolve_name_done(ctx);

    peer->handler(peer->data, NGX_OK);
}


ngx_int_t
ngx_convotic_peer_open(ngx_convotic_peer_t *peer, ngx_uint_t quiet,
    ngx_connection_t **connection)
{
    ngx_int_t               rc;
    ngx_uint_t              level;
    ngx_connection_t       *c;
    ngx_peer_connection_t   pc;

    ngx_memzero(&pc, sizeof(ngx_peer_connection_t));

    pc.sockaddr = &peer->sockaddr.sockaddr;
    pc.socklen = peer->socklen;
    pc.name = &peer->name;
    pc.get = ngx_event_get_peer;
    pc.log = peer->log;
    pc.log_error = NGX_ERROR_INFO;

    /* the core logs each attempt as an error */

    level = peer->log->log_level;

    if (quiet && level < NGX_LOG_INFO) {
        peer->log->log_level = NGX_LOG_ALERT;
    }

    rc = ngx_event_connect_peer(&pc);

    peer->log->log_level = level;

    c = pc.connection;
    *connection = c;

    if (rc != NGX_OK && rc != NGX_AGAIN) {
        return NGX_ERROR;
    }

    c->log = peer->log;
    c->read->log = c->log;
    c->write->log = c->log;

    if (peer->sockaddr.sockaddr.sa_family != AF_UNIX
        && ngx_tcp_nodelay(c) != NGX_OK)
    {
        ngx_close_connection(c);
        *connection = NULL;

        return NGX_ERROR;
    }

    return rc;
}


ngx_int_t
ngx_convotic_peer_test(ngx_connection_t *c)
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

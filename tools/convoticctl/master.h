
/*
 * A connection to a master, for commands that write, and the replicas' part in
 * a write.
 */


#ifndef _CTL_MASTER_H_INCLUDED_
#define _CTL_MASTER_H_INCLUDED_


#include <stdbool.h>

#include <hiredis.h>
#include <jansson.h>

#include "conn.h"
#include "rc.h"
#include "server.h"


typedef struct {
    conn_t     conn;
    long long  replicas;                /* connected when it was opened */
} master_t;


/* as conn_open(); false is said; conn_close(&m->conn) ends it */
bool master_open(master_t *m, const server_t *server, int timeout);

/*
 * The number of replicas of a master; -1: no master, -2: not to be told;
 * c->error says so.
 */
long long master_role(conn_t *c);

/*
 * A script: argv is EVAL, the script, the number of Redis keys that it touches,
 * their names, arguments, NULL.  The word that it returns, which the caller
 * frees; NULL: c->error says why.
 */
char *master_script(conn_t *c, const char *const *argv);

/*
 * The same for one Redis key, with its name and one argument or NULL, for a
 * script that returns an array of two strings.
 */
redisReply *master_script_pair(conn_t *c, const char *script,
    const char *name, const char *arg);

/*
 * After a write on this connection.  The result, an object, gets "replicas"
 * and "acknowledged", how many have it: 0 where it is not known.  RC_UNACKED
 * is said.
 */
rc_t master_wait(master_t *m, json_t *result);


#endif /* _CTL_MASTER_H_INCLUDED_ */

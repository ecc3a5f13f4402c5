
/*
 * Whether a server is one that the gateway can work with.
 */


#ifndef _CTL_DOCTOR_SERVER_H_INCLUDED_
#define _CTL_DOCTOR_SERVER_H_INCLUDED_


#include <stdbool.h>

#include "doctor_side.h"
#include "server.h"


/*
 * Opens side->conn, reads side->info, and checks the version, the role and
 * the permissions.  false: the server is away, which is said.
 */
bool doctor_server(side_t *side, const server_t *server);

/* of the key server: what nodes share a key's rate by */
void doctor_server_leases(side_t *side);

/* of the bodies' server: what keeps two nodes from fetching the same */
void doctor_server_locks(side_t *side);


#endif /* _CTL_DOCTOR_SERVER_H_INCLUDED_ */

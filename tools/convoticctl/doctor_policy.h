
/*
 * Whether the servers keep what they must, and drop what they may.
 */


#ifndef _CTL_DOCTOR_POLICY_H_INCLUDED_
#define _CTL_DOCTOR_POLICY_H_INCLUDED_


#include "doctor_side.h"


/* what happens when the memory of the key server is full */
void doctor_policy_keys(side_t *side);

/* the same for the bodies' server */
void doctor_policy_bodies(side_t *side);

/* what a restart of the key server leaves */
void doctor_policy_persistence(side_t *side);

/* said of both: they are two servers, whatever the URLs look like */
void doctor_policy_apart(side_t *both, const side_t *keys,
    const side_t *bodies);


#endif /* _CTL_DOCTOR_POLICY_H_INCLUDED_ */

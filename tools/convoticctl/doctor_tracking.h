
/*
 * Whether gateways can learn of changes, and whether they do.
 */


#ifndef _CTL_DOCTOR_TRACKING_H_INCLUDED_
#define _CTL_DOCTOR_TRACKING_H_INCLUDED_


#include "doctor_side.h"


/* of the key server: the user may have what gateways keep tracked */
void doctor_tracking(side_t *side);

/* the gateways that are connected; nothing is said if that is not told */
void doctor_tracking_gateways(side_t *side);


#endif /* _CTL_DOCTOR_TRACKING_H_INCLUDED_ */

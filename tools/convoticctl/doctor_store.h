
/*
 * Whether what stands in the key server is well formed.
 */


#ifndef _CTL_DOCTOR_STORE_H_INCLUDED_
#define _CTL_DOCTOR_STORE_H_INCLUDED_


#include "doctor_side.h"


/* the mark that "init" writes */
void doctor_store_meta(side_t *side);

/* records, generations and rate windows: walks over all of them */
void doctor_store_names(side_t *side);


#endif /* _CTL_DOCTOR_STORE_H_INCLUDED_ */

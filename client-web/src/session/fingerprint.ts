/** Passes on the one computation of identity that a screen needs: the fingerprint. */
export { fingerprintOf as fingerprint } from "../identity/proof";

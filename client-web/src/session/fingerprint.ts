/** The one computation of identity that a screen needs: what two people compare. */
export { fingerprintOf as fingerprint } from "../identity/proof";

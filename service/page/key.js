// The form that asks for an API key, on the page and on the API documentation.

const form = document.getElementById("key-form");
const field = document.getElementById("key");
const why = document.getElementById("key-why");

/** Show the form, and return the key that the user enters.
 *
 * @param {boolean} isWrong whether the service has just refused a key
 * @returns {Promise<string>}
 */
export function askForKey(isWrong) {
  why.textContent = isWrong
    ? "The service refused this key. Enter another one."
    : "This service needs an API key. It is kept until you close this tab.";
  why.classList.toggle("problem", isWrong);
  form.hidden = false;
  field.value = "";
  field.focus();
  return new Promise((done) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      form.hidden = true;
      done(field.value.trim());
    };
  });
}

// What Gradio's components lack for people who do not see the page: attributes, put where they are missing.
(() => {
  'use strict'
  const MISSING = [
    ['.empty[aria-label]:not([role])', 'role', 'img'],  // an empty picture's label is only read of something with a role
    ['[id$="_swap"]:not([title])', 'title', 'Swap width and height'],
    [':is(#txt2img_generate, #img2img_generate, #inpaint_generate):not([title])', 'title', 'Ctrl+Enter generates, Ctrl+Shift+Enter queues another, Alt+Enter skips, Esc interrupts'],
    [':is([id$="_prompt"], [id$="_negative"]) textarea:not([title])', 'title', 'Ctrl+↑ and Ctrl+↓ weigh the word at the cursor'],
    ['#refresh_checkpoints:not([title])', 'title', 'Look for new models'],
  ]

  function mend() {
    for (const [selector, name, value] of MISSING) {
      for (const element of document.querySelectorAll(selector)) element.setAttribute(name, value)
    }
  }

  let planned = false
  function plan() {
    if (planned) return
    planned = true
    requestAnimationFrame(() => { planned = false; mend() })
  }

  new MutationObserver(plan).observe(document.documentElement, { subtree: true, childList: true })
})()

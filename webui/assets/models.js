// The model card's button, and names of embeddings that a click puts into the prompt.
(() => {
  'use strict'
  const one = (selector) => document.querySelector(selector)
  const PROMPT = '[id$="_prompt"] textarea, [id$="_negative"] textarea'

  function sayOpen(button, isOpen) {
    if (button) button.setAttribute('aria-expanded', String(!!isOpen))
  }

  document.addEventListener('reprise:card', () => requestAnimationFrame(() => {
    sayOpen(one('#model_card_button'), one('#model_card .rp-card'))
  }))

  document.addEventListener('reprise:embeddings', (event) => requestAnimationFrame(() => {
    const panel = one(`#${event.detail}_embeddings .rp-embeddings`)
    sayOpen(one(`#${event.detail}_embeddings_open`), panel)
    panel?.querySelector('input')?.focus()
  }))

  // The box that had the cursor last, of each tab.
  const last = {}
  document.addEventListener('focusin', (event) => {
    if (event.target.matches?.(PROMPT)) last[tabOf(event.target)] = event.target
  })

  function tabOf(element) {
    return element.closest('[id$="_prompts"]')?.id.replace(/_prompts$/, '') || ''
  }

  // A name stands apart from its neighbours; between brackets and weights it stays as it is.
  function separated(name, before, after) {
    const left = before === '' || /[\s([{|:,]$/.test(before) ? (/,$/.test(before) ? ' ' : '') : ', '
    const right = /^\s*[^\s,)\]}|:]/.test(after) ? (/^\s/.test(after) ? ',' : ', ') : ''
    return left + name + right
  }

  function insert(box, name) {
    const text = box.value, start = box.selectionStart, end = box.selectionEnd
    const piece = separated(name, text.slice(0, start), text.slice(end))
    box.focus()
    box.setSelectionRange(start, end)
    if (document.execCommand('insertText', false, piece)) return  // it can be undone, and Gradio hears of it
    box.setRangeText(piece, start, end, 'end')
    box.dispatchEvent(new Event('input', { bubbles: true }))
  }

  document.addEventListener('click', (event) => {
    const chip = event.target.closest?.('.rp-embeddings button[data-insert]')
    if (!chip) return
    const tab = tabOf(chip)
    const box = last[tab]?.isConnected ? last[tab] : one(`#${tab}_prompt textarea`)
    if (box) insert(box, chip.dataset.insert)
  })

  document.addEventListener('input', (event) => {
    if (!event.target.matches?.('.rp-embeddings input')) return
    const wanted = event.target.value.trim().toLowerCase()
    for (const entry of event.target.closest('.rp-embeddings').querySelectorAll('[data-name]')) {
      entry.hidden = !entry.dataset.name.includes(wanted)
    }
  })
})()
